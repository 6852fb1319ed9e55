//! The keys of a service, all that the Compose Specification knows.

use super::own::REGISTER;
use super::{Identity, Kind, Table, key, own, unsupported};

pub static SERVICE: Table = Table::new(
    "a service",
    "Containers of one kind.",
    &[
        key("image", Kind::Text, "The image that the containers are made from."),
        key("command", Kind::Command, "Replaces the image's command."),
        key("entrypoint", Kind::Command, "Replaces the image's entrypoint."),
        key("environment", Kind::Pairs, "Environment variables; one without a value takes it from the environment."),
        key(
            "env_file",
            Kind::Entries { long: &ENV_FILE, identity: Identity::Path, single: true },
            "Files of environment variables; `environment` wins over them.",
        ),
        key(
            "ports",
            Kind::Entries { long: &PORT, identity: Identity::Port, single: false },
            "Published ports: `[host ip:][host port:]port[/protocol]`; of a range of host ports, each replica gets one.",
        ),
        key("expose", Kind::List, "Ports that are open to other containers."),
        key(
            "volumes",
            Kind::Entries { long: &MOUNT, identity: Identity::Volume, single: false },
            "Mounts: `[source:]target[:options]`.",
        ),
        key("tmpfs", Kind::Texts, "File systems in memory: `target[:options]`."),
        key(
            "configs",
            Kind::Entries { long: &GRANT, identity: Identity::Grant, single: false },
            "Configs that are mounted read-only.",
        ),
        key(
            "secrets",
            Kind::Entries { long: &GRANT, identity: Identity::Grant, single: false },
            "Secrets that are mounted read-only, by default in `/run/secrets`.",
        ),
        key(
            "networks",
            Kind::Named(&Kind::Mapping(&ATTACHMENT)),
            "Networks that the containers attach to; default: the project's `default`.",
        ),
        key(
            "network_mode",
            Kind::Text,
            "Instead of networks: `host`, `none`, `bridge`, `service:<name>`, `container:<name>`.",
        ),
        key("labels", Kind::Pairs, "Labels of the containers."),
        key("healthcheck", Kind::Mapping(&HEALTHCHECK), "How Docker finds out whether a container is healthy."),
        key("restart", Kind::Text, "`no`, `always`, `unless-stopped`, `on-failure[:retries]`."),
        key("depends_on", Kind::Named(&Kind::Mapping(&DEPENDENCY)), "Services that must be there first."),
        key("deploy", Kind::Mapping(&DEPLOY), "How many replicas, how they are replaced, what they may use."),
        key("scale", Kind::Integer { min: 0, max: 10_000 }, "Number of replicas; `deploy.replicas` says the same."),
        key("profiles", Kind::List, "The service exists only when one of these profiles is on."),
        key("stop_grace_period", Kind::Duration, "Time between the stop signal and SIGKILL; default: 10s."),
        key("stop_signal", Kind::Text, "The signal that asks the container to stop; default: the image's."),
        key("user", Kind::Text, "User, and group, of the process: `user[:group]`."),
        key("working_dir", Kind::Text, "Working directory of the process."),
        key("hostname", Kind::Text, "Host name in the container; only with one replica."),
        key("domainname", Kind::Text, "Domain name in the container."),
        key("container_name", Kind::Text, "The container's own name; only with one replica."),
        key("platform", Kind::Text, "Platform of the image: `os[/arch[/variant]]`."),
        key(
            "pull_policy",
            Kind::Choice(&["always", "missing", "if_not_present", "never"]),
            "When the image is pulled; default: `missing`.",
        ),
        key("init", Kind::Boolean, "An init process that forwards signals and reaps processes."),
        key("privileged", Kind::Boolean, "All privileges of the host."),
        key("read_only", Kind::Boolean, "The container's own file system cannot be written."),
        key("tty", Kind::Boolean, "With a terminal."),
        key("stdin_open", Kind::Boolean, "Standard input stays open."),
        key("cap_add", Kind::List, "Capabilities that are added."),
        key("cap_drop", Kind::List, "Capabilities that are taken away."),
        key("security_opt", Kind::List, "Labels of the security system."),
        key("shm_size", Kind::Size, "Size of /dev/shm."),
        key("mem_limit", Kind::Size, "The same as `deploy.resources.limits.memory`."),
        key("mem_reservation", Kind::Size, "The same as `deploy.resources.reservations.memory`."),
        key("cpus", Kind::Cpus, "The same as `deploy.resources.limits.cpus`."),
        key("pids_limit", Kind::Integer { min: -1, max: i64::MAX }, "The same as `deploy.resources.limits.pids`."),
        key(
            "ulimits",
            Kind::MapOf(&Kind::Either(&[Kind::Integer { min: -1, max: i64::MAX }, Kind::Mapping(&ULIMIT)])),
            "Limits of the process, by name.",
        ),
        key("sysctls", Kind::Pairs, "Kernel parameters of the container."),
        key("extra_hosts", Kind::Hosts, "More lines for /etc/hosts: `name:address`."),
        key("dns", Kind::Texts, "Name servers."),
        key("dns_opt", Kind::List, "Options of the resolver."),
        key("dns_search", Kind::Texts, "Search domains."),
        key(
            "devices",
            Kind::Entries { long: &DEVICE, identity: Identity::Device, single: false },
            "Devices of the host: `source[:target[:permissions]]`.",
        ),
        key("logging", Kind::Mapping(&LOGGING), "Where the output goes."),
        own(
            "register",
            Kind::Either(&[Kind::Boolean, Kind::Mapping(&REGISTER), Kind::ListOf(&Kind::Mapping(&REGISTER))]),
            "Register each replica in Consul: `true`, one registration, or a list of them.",
        ),
        unsupported("annotations", "use `labels`"),
        unsupported("attach", "leave it out: reeve attaches to no output; see `docker logs`"),
        unsupported("blkio_config", "leave it out"),
        unsupported("build", "build the image beforehand (`docker build -t NAME .`) and name it with `image`"),
        unsupported("cgroup", "leave it out"),
        unsupported("cgroup_parent", "leave it out"),
        unsupported("cpu_count", "use `deploy.resources.limits.cpus`"),
        unsupported("cpu_percent", "use `deploy.resources.limits.cpus`"),
        unsupported("cpu_period", "use `deploy.resources.limits.cpus`"),
        unsupported("cpu_quota", "use `deploy.resources.limits.cpus`"),
        unsupported("cpu_rt_period", "use `deploy.resources.limits.cpus`"),
        unsupported("cpu_rt_runtime", "use `deploy.resources.limits.cpus`"),
        unsupported("cpu_shares", "use `deploy.resources.limits.cpus`"),
        unsupported("cpuset", "use `deploy.resources.limits.cpus`"),
        unsupported("credential_spec", "leave it out: it belongs to Windows"),
        unsupported("develop", "leave it out: reeve runs services, it does not watch sources"),
        unsupported("device_cgroup_rules", "use `devices`"),
        unsupported("extends", "use a YAML anchor and `<<: *name`, or a second file with -f"),
        unsupported("external_links", "put both containers on one external network"),
        unsupported("gpus", "leave it out"),
        unsupported("group_add", "use `user: USER:GROUP`"),
        unsupported("ipc", "leave it out"),
        unsupported("isolation", "leave it out: it belongs to Windows"),
        unsupported("label_file", "use `labels`"),
        unsupported("links", "leave it out: services of one network find each other by name"),
        unsupported("mac_address", "use `networks.<name>.mac_address`"),
        unsupported("mem_swappiness", "leave it out"),
        unsupported("memswap_limit", "leave it out"),
        unsupported("models", "run the model as a service of its own"),
        unsupported("oom_kill_disable", "leave it out"),
        unsupported("oom_score_adj", "leave it out"),
        unsupported("pid", "leave it out"),
        unsupported("post_start", "put it into the image's entrypoint, or a service of its own"),
        unsupported("pre_stop", "handle the stop signal in the container"),
        unsupported("provider", "leave it out: reeve runs containers only"),
        unsupported("runtime", "leave it out: the engine's default runtime is used"),
        unsupported("storage_opt", "leave it out"),
        unsupported("use_api_socket", "mount the socket with `volumes`"),
        unsupported("userns_mode", "leave it out"),
        unsupported("uts", "leave it out"),
        unsupported("volume_driver", "give `driver` in the top-level `volumes`"),
        unsupported("volumes_from", "mount the same named volume in both services"),
    ],
);

static ENV_FILE: Table = Table::new(
    "an env_file entry",
    "A file of environment variables.",
    &[
        key("path", Kind::Text, "The file, relative to the first spec file."),
        key("required", Kind::Boolean, "`false`: it may be missing. Default: true."),
        key("format", Kind::Choice(&["raw"]), "`raw`: values are taken as they are, without quotes and variables."),
    ],
)
.without_extensions();

static PORT: Table = Table::new(
    "a port",
    "A published port.",
    &[
        key("target", Kind::Integer { min: 1, max: 65_535 }, "Container port."),
        key("published", Kind::Text, "Host port, or a range; default: Docker chooses."),
        key("host_ip", Kind::Text, "Address of the host; default: all."),
        key("protocol", Kind::Choice(&["tcp", "udp", "sctp"]), "Default: tcp."),
        key("mode", Kind::Choice(&["host", "ingress"]), "Accepted; on one host both are the same."),
        key("name", Kind::Text, "Accepted; it only describes the port."),
        key("app_protocol", Kind::Text, "Accepted; it only describes the port."),
    ],
);

static MOUNT: Table = Table::new(
    "a mount",
    "A volume, a folder of the host, or a file system in memory.",
    &[
        key("type", Kind::Choice(&["volume", "bind", "tmpfs", "image", "npipe", "cluster"]), "What is mounted."),
        key("source", Kind::Text, "The volume's key, or a path of the host."),
        key("target", Kind::Text, "Where in the container."),
        key("read_only", Kind::Boolean, "It cannot be written."),
        key("bind", Kind::Mapping(&BIND), "Options of a bind."),
        key("volume", Kind::Mapping(&MOUNTED_VOLUME), "Options of a volume."),
        key("tmpfs", Kind::Mapping(&TMPFS), "Options of a file system in memory."),
        key("consistency", Kind::Text, "Accepted; it means something to Docker Desktop alone."),
        unsupported("image", "leave it out: reeve mounts no images"),
    ],
);

static BIND: Table = Table::new(
    "bind options",
    "How a folder of the host is mounted.",
    &[
        key(
            "propagation",
            Kind::Choice(&["private", "rprivate", "shared", "rshared", "slave", "rslave"]),
            "Whether mounts below it are seen on the other side.",
        ),
        key("create_host_path", Kind::Boolean, "Make the folder when it is missing."),
        key("selinux", Kind::Choice(&["z", "Z"]), "Label for SELinux: shared or private."),
        unsupported("recursive", "leave it out"),
    ],
);

static MOUNTED_VOLUME: Table = Table::new(
    "volume options",
    "How a volume is mounted.",
    &[
        key("nocopy", Kind::Boolean, "Do not fill a new volume from the image."),
        unsupported("subpath", "use a volume of its own"),
        unsupported("labels", "give `labels` in the top-level `volumes`"),
    ],
);

static TMPFS: Table = Table::new(
    "tmpfs options",
    "A file system in memory.",
    &[key("size", Kind::Size, "Its size."), key("mode", Kind::Text, "Its permissions, in octal: `1777`.")],
);

static GRANT: Table = Table::new(
    "a config or secret of a service",
    "How a config or secret is mounted.",
    &[
        key("source", Kind::Text, "The key of the config or secret."),
        key("target", Kind::Text, "Path in the container."),
        key("uid", Kind::Text, "Owner of the file."),
        key("gid", Kind::Text, "Group of the file."),
        key("mode", Kind::Text, "Its permissions, in octal: `0440`."),
    ],
);

static ATTACHMENT: Table = Table::new(
    "a network of a service",
    "How the containers attach to a network.",
    &[
        key("aliases", Kind::List, "More names in this network."),
        key("ipv4_address", Kind::Text, "A fixed address; only with one replica."),
        key("ipv6_address", Kind::Text, "A fixed address; only with one replica."),
        key("mac_address", Kind::Text, "A fixed hardware address; only with one replica."),
        key("link_local_ips", Kind::List, "Link-local addresses."),
        unsupported("driver_opts", "give `driver_opts` in the top-level `networks`"),
        unsupported("gw_priority", "leave it out"),
        unsupported("interface_name", "leave it out"),
        unsupported("priority", "leave it out"),
    ],
);

static HEALTHCHECK: Table = Table::new(
    "a healthcheck",
    "A command in the container whose exit code says whether it is healthy.",
    &[
        key("test", Kind::Command, "`[CMD, program, …]`, `[CMD-SHELL, line]`, `[NONE]`, or a line for the shell."),
        key("interval", Kind::Duration, "Time between two checks; default: 30s."),
        key("timeout", Kind::Duration, "When an answer is too late; default: 30s."),
        key(
            "retries",
            Kind::Integer { min: 0, max: 1_000_000 },
            "Failures in a row that make it unhealthy; default: 3.",
        ),
        key("start_period", Kind::Duration, "Failures in this time after the start do not count."),
        key("start_interval", Kind::Duration, "Time between two checks in the start period."),
        key("disable", Kind::Boolean, "No check, also not the image's own."),
    ],
);

static DEPENDENCY: Table = Table::new(
    "a dependency",
    "What must hold of a service first.",
    &[
        key(
            "condition",
            Kind::Choice(&["service_started", "service_healthy", "service_completed_successfully"]),
            "Default: service_started.",
        ),
        key("required", Kind::Boolean, "`false`: it may be missing. Default: true."),
        unsupported("restart", "leave it out: a dependent service is not restarted with its dependency"),
    ],
);

static DEPLOY: Table = Table::new(
    "a deploy section",
    "How many replicas, how they are replaced, what they may use.",
    &[
        key("replicas", Kind::Integer { min: 0, max: 10_000 }, "Number of replicas; default: 1."),
        key("mode", Kind::Choice(&["replicated"]), "Only `replicated`: reeve runs on one host."),
        key("update_config", Kind::Mapping(&UPDATE), "How replicas are replaced."),
        key("resources", Kind::Mapping(&RESOURCES), "What each replica may use."),
        key("restart_policy", Kind::Mapping(&RESTART_POLICY), "The same as `restart`, which wins."),
        unsupported("endpoint_mode", "leave it out: it belongs to Swarm; route with `upstreams`"),
        unsupported("labels", "use the service's `labels`"),
        unsupported("placement", "leave it out: reeve runs on one host"),
        unsupported("rollback_config", "leave it out: a rollback is done as an update, by `update_config`"),
    ],
);

static UPDATE: Table = Table::new(
    "an update_config",
    "How replicas are replaced.",
    &[
        key("parallelism", Kind::Integer { min: 0, max: 10_000 }, "How many at once; 0: all. Default: 1."),
        key("delay", Kind::Duration, "Time between two of them."),
        key("monitor", Kind::Duration, "How long a new replica is watched before it counts as good."),
        own(
            "deadline",
            Kind::Duration,
            "How long a new replica may take to be ready, from its creation; default: twice what its checks can take, at least 1m.",
        ),
        key("order", Kind::Choice(&["start-first", "stop-first"]), "Default: `start-first` where that is possible."),
        key("failure_action", Kind::Choice(&["pause", "continue", "rollback"]), "Default: pause."),
        unsupported("max_failure_ratio", "leave it out: an update stops at its first failure"),
    ],
);

static RESOURCES: Table = Table::new(
    "a resources section",
    "What each replica may use.",
    &[
        key("limits", Kind::Mapping(&LIMITS), "At most."),
        key("reservations", Kind::Mapping(&RESERVATIONS), "At least."),
    ],
);

static LIMITS: Table = Table::new(
    "limits",
    "What a replica may use at most.",
    &[
        key("cpus", Kind::Cpus, "Number of CPUs."),
        key("memory", Kind::Size, "Memory."),
        key("pids", Kind::Integer { min: -1, max: i64::MAX }, "Number of processes."),
    ],
);

static RESERVATIONS: Table = Table::new(
    "reservations",
    "What a replica gets at least.",
    &[
        key("memory", Kind::Size, "Memory."),
        unsupported("cpus", "leave it out: an engine alone cannot reserve CPUs; use `limits`"),
        unsupported("devices", "leave it out; use the service's `devices`"),
        unsupported("generic_resources", "leave it out: it belongs to Swarm"),
    ],
);

static RESTART_POLICY: Table = Table::new(
    "a restart_policy",
    "When Docker starts a container again.",
    &[
        key("condition", Kind::Choice(&["none", "on-failure", "any"]), "Default: any."),
        key("max_attempts", Kind::Integer { min: 0, max: 1_000_000 }, "How often, for `on-failure`."),
        unsupported("delay", "leave it out: Docker chooses the delay"),
        unsupported("window", "leave it out: Docker counts a start as good after 10s"),
    ],
);

static ULIMIT: Table = Table::new(
    "a ulimit",
    "Soft and hard limit.",
    &[
        key("soft", Kind::Integer { min: -1, max: i64::MAX }, "The limit that holds; -1: none."),
        key("hard", Kind::Integer { min: -1, max: i64::MAX }, "How far a process may raise it; -1: without end."),
    ],
)
.without_extensions();

static DEVICE: Table = Table::new(
    "a device",
    "A device of the host.",
    &[
        key("source", Kind::Text, "Path on the host."),
        key("target", Kind::Text, "Path in the container; default: the same."),
        key("permissions", Kind::Text, "Of `r`, `w`, `m`; default: `rwm`."),
    ],
);

static LOGGING: Table = Table::new(
    "a logging section",
    "Where the output goes.",
    &[key("driver", Kind::Text, "Log driver."), key("options", Kind::Options, "Options of the driver.")],
)
.whole_when("driver");
