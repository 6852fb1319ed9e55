//! The top level of a spec: services, networks, volumes, configs, secrets.

use super::container::SERVICE;
use super::own::{DISCOVERY, UPSTREAM};
use super::template::TEMPLATE;
use super::{Kind, Table, key, own, unsupported};

pub static SPEC: Table = Table::new(
    "a spec",
    "A reeve spec: a Compose file, and the upstreams that nginx routes.",
    &[
        key("version", Kind::Text, "Accepted and ignored, as Compose does."),
        key("name", Kind::Text, "The project's name; default: the name of the first file's folder."),
        key("services", Kind::MapOf(&Kind::Mapping(&SERVICE)), "Containers of one kind each, by name."),
        key("networks", Kind::MapOf(&Kind::Mapping(&NETWORK)), "Networks that services attach to."),
        key("volumes", Kind::MapOf(&Kind::Mapping(&VOLUME)), "Named volumes that services mount."),
        key("configs", Kind::MapOf(&Kind::Mapping(&CONFIG)), "Files that services can mount read-only."),
        key("secrets", Kind::MapOf(&Kind::Mapping(&SECRET)), "Secret files that services can mount read-only."),
        own("upstreams", Kind::MapOf(&Kind::Mapping(&UPSTREAM)), "What nginx routes to, by name."),
        own(
            "templates",
            Kind::MapOf(&Kind::Mapping(&TEMPLATE)),
            "Files that are rendered from Consul's data, by name.",
        ),
        own("discovery", Kind::Mapping(&DISCOVERY), "Registers containers that reeve did not make."),
        unsupported("include", "list the files one after the other: `-f a.yaml -f b.yaml`, or `spec:` in reeve.yaml"),
        unsupported("models", "run the model as a service of its own"),
    ],
);

static NETWORK: Table = Table::new(
    "a network",
    "A Docker network.",
    &[
        key("name", Kind::Text, "Docker's name of the network; default: `<project>_<key>`."),
        key("driver", Kind::Text, "Driver; default: the engine's (`bridge`)."),
        key("driver_opts", Kind::Options, "Options for the driver."),
        key("attachable", Kind::Boolean, "Other containers may attach to it by hand."),
        key("enable_ipv6", Kind::Boolean, "Addresses of IPv6 too."),
        key("internal", Kind::Boolean, "No way out of the host."),
        key(
            "external",
            Kind::Either(&[Kind::Boolean, Kind::Mapping(&EXTERNAL)]),
            "It exists already; reeve neither makes nor removes it.",
        ),
        key("ipam", Kind::Mapping(&IPAM), "How addresses are given."),
        key("labels", Kind::Pairs, "Labels of the network."),
        unsupported("enable_ipv4", "leave it out: networks have IPv4"),
    ],
);

static EXTERNAL: Table = Table::new(
    "an external object",
    "The old form of `external: true` with `name`.",
    &[key("name", Kind::Text, "Docker's name of it.")],
);

static IPAM: Table = Table::new(
    "an ipam section",
    "How a network gives addresses.",
    &[
        key("driver", Kind::Text, "Driver; default: `default`."),
        key("config", Kind::ListOf(&Kind::Mapping(&POOL)), "Pools of addresses."),
        unsupported("options", "leave it out: the default driver takes none"),
    ],
);

static POOL: Table = Table::new(
    "an address pool",
    "One pool of addresses.",
    &[
        key("subnet", Kind::Text, "Subnet, such as `172.28.0.0/16`."),
        key("gateway", Kind::Text, "Address of the gateway."),
        key("ip_range", Kind::Text, "The part of the subnet from which containers get addresses."),
        key("aux_addresses", Kind::Options, "Addresses that are taken by others, by host name."),
    ],
);

static VOLUME: Table = Table::new(
    "a volume",
    "A Docker volume.",
    &[
        key("name", Kind::Text, "Docker's name of the volume; default: `<project>_<key>`."),
        key("driver", Kind::Text, "Driver; default: `local`."),
        key("driver_opts", Kind::Options, "Options for the driver."),
        key(
            "external",
            Kind::Either(&[Kind::Boolean, Kind::Mapping(&EXTERNAL)]),
            "It exists already; reeve neither makes nor removes it.",
        ),
        key("labels", Kind::Pairs, "Labels of the volume."),
    ],
);

static CONFIG: Table = Table::new(
    "a config",
    "A file that services can mount; exactly one of file, environment, content.",
    &[
        key("file", Kind::Text, "A file of the host."),
        key("environment", Kind::Text, "The environment variable that holds the content."),
        key("content", Kind::Text, "The content itself."),
        key("name", Kind::Text, "Accepted; the config is known by its key."),
        unsupported("external", "give `file`, `environment` or `content`: stores of configs belong to Swarm"),
        unsupported("labels", "leave it out: a config is a file, which has no labels"),
        unsupported("template_driver", "leave it out: it belongs to Swarm"),
    ],
);

static SECRET: Table = Table::new(
    "a secret",
    "A secret file that services can mount; exactly one of file, environment, content.",
    &[
        key("file", Kind::Text, "A file of the host."),
        key("environment", Kind::Text, "The environment variable that holds the content."),
        key("content", Kind::Text, "The content itself; better in a file or the environment."),
        key("name", Kind::Text, "Accepted; the secret is known by its key."),
        unsupported("external", "give `file` or `environment`: stores of secrets belong to Swarm"),
        unsupported("labels", "leave it out: a secret is a file, which has no labels"),
        unsupported("driver", "give `file` or `environment`: stores of secrets belong to Swarm"),
        unsupported("driver_opts", "give `file` or `environment`: stores of secrets belong to Swarm"),
        unsupported("template_driver", "leave it out: it belongs to Swarm"),
    ],
);
