//! registrator's command line as a `discovery` block, and as settings of reeve.
//!
//! Owns what became of each of its flags. It must not know how discovery works.

use crate::spec::diagnostic::Diagnostic;

use super::flags::{self, Flag};
use super::settings::Settings;
use super::{COMMAND_LINE, CommandLine, File, Imported, yaml};

const SWITCHES: [&str; 4] = ["internal", "explicit", "cleanup", "version"];
/// All of registrator's flags, for "did you mean".
const FLAGS: [&str; 13] = [
    "internal",
    "explicit",
    "cleanup",
    "version",
    "ip",
    "tags",
    "resync",
    "ttl",
    "ttl-refresh",
    "deregister",
    "retry-attempts",
    "retry-interval",
    "useIpFromLabel",
];

/// The words of a command line: flags, and the URI of the registry.
///
/// # Errors
/// A flag that registrator does not have, or no URI.
pub fn from_words(words: &[String]) -> Result<Imported, Box<Diagnostic>> {
    import(&CommandLine::of_words(COMMAND_LINE, words))
}

/// A command line in one text, as in a shell or in Compose.
///
/// # Errors
/// As [`from_words`]; also a quote that is not closed.
pub fn from_line(line: &str) -> Result<Imported, Box<Diagnostic>> {
    import(&CommandLine::of_line(COMMAND_LINE, line, "registrator")?)
}

fn import(line: &CommandLine) -> Result<Imported, Box<Diagnostic>> {
    let mut imported = Imported::default();
    let block = discovery(line, &mut imported)?;
    let shown: Vec<&str> = line.words.iter().map(|word| word.text.as_str()).collect();
    let mut text = format!("# Imported from the command line of registrator:\n#   {}\n", shown.join(" "));
    text.push_str(
        "# Put it into your spec, or give it as one more file: `reeve -f app.yaml -f discovery.yaml plan`.\n\n",
    );
    text.push_str(&block);
    imported.files.push(File { name: "discovery.yaml".to_owned(), text });
    Ok(imported)
}

/// What of the flags counts for each registration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Conventions {
    pub internal: bool,
    pub explicit: bool,
    pub tags: Vec<String>,
}

pub(super) fn conventions(line: &CommandLine) -> Conventions {
    let (flags, _) = flags::parse(line, &SWITCHES);
    let on = |name: &str| flags.iter().any(|flag| flag.name == name && flag.is_on());
    // A template over the container has no counterpart, and is listed.
    let tags = flags.iter().filter(|flag| flag.name == "tags" && !flag.text().contains("{{"));
    Conventions {
        internal: on("internal"),
        explicit: on("explicit"),
        tags: tags.flat_map(|flag| listed(flag.text())).collect(),
    }
}

/// The block, with the settings and what became of each flag as comments around it.
pub(super) fn discovery(line: &CommandLine, imported: &mut Imported) -> Result<String, Box<Diagnostic>> {
    let (flags, rest) = flags::parse(line, &SWITCHES);
    let mut settings = Settings::default();
    let mut block = Block { containers: "all", address: "published", ..Block::default() };
    let mut cleanup = false;
    for flag in &flags {
        cleanup |= flag.name == "cleanup" && flag.is_on();
        block.flag(line, flag, &mut settings, imported)?;
    }
    let Some(uri) = rest.first() else {
        let end = line.source.text.len();
        let problem = Diagnostic::error(&line.place(&(0..end)), "the address of the registry is missing");
        return Err(Box::new(problem.with_help("registrator's last word is a URI such as consul://127.0.0.1:8500")));
    };
    registry(line, uri, &mut settings, imported, &mut block);
    if !cleanup {
        block.fates.push(
            "ghosts: also without -cleanup, reeve removes what it registered itself and whose container is gone"
                .to_owned(),
        );
    }
    Ok(block.text(&settings))
}

fn listed(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

fn registry(
    line: &CommandLine,
    uri: &super::Word,
    settings: &mut Settings,
    imported: &mut Imported,
    block: &mut Block,
) {
    let (scheme, rest) = uri.text.split_once("://").unwrap_or((uri.text.as_str(), ""));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = if host.is_empty() { "127.0.0.1:8500" } else { host };
    let mut set = |address: String| settings.set("consul.address", &address, &uri.text);
    match scheme {
        "consul" => set(format!("http://{host}")),
        "consul-tls" => {
            set(format!("https://{host}"));
            settings.hint("consul.ca_file", "/path/of/CONSUL_CACERT", "the file in $CONSUL_CACERT");
            settings.hint("consul.cert_file", "/path/of/CONSUL_CLIENT_CERT", "the file in $CONSUL_CLIENT_CERT");
            settings.hint("consul.key_file", "/path/of/CONSUL_CLIENT_KEY", "the file in $CONSUL_CLIENT_KEY");
        }
        "consul-unix" => set(format!("unix:///{}", rest.trim_start_matches('/'))),
        _ => {
            let message = format!("the registry `{scheme}` has no counterpart: reeve registers in Consul");
            imported.gap(&line.place(&uri.range), message, "");
            block.fates.push(format!("{}: no counterpart: reeve registers in Consul", uri.text));
            return;
        }
    }
    if !path.is_empty() && scheme != "consul-unix" {
        block.fates.push(format!("/{path} in {}: registrator ignores it for Consul, too", uri.text));
    }
}

#[derive(Debug, Default)]
struct Block {
    containers: &'static str,
    address: &'static str,
    explicit: Option<String>,
    internal: Option<String>,
    tags: Vec<String>,
    tags_from: Option<String>,
    /// Lines that stand in the block where a key would.
    marks: Vec<String>,
    fates: Vec<String>,
}

impl Block {
    fn gap(&mut self, line: &CommandLine, flag: &Flag, reason: &str, help: &str, imported: &mut Imported) {
        let message = format!("`-{}` has no counterpart: {reason}", flag.name);
        let range = flag.word.range.start..flag.value.as_ref().map_or(flag.word.range.end, |value| value.range.end);
        imported.gap(&line.place(&range), message, help);
        self.marks.push(format!("no counterpart: {}: {reason}", flag.shown()));
        self.fates.push(format!(
            "{}: no counterpart: {reason}{}",
            flag.shown(),
            if help.is_empty() { String::new() } else { format!("; {help}") }
        ));
    }

    fn flag(
        &mut self,
        line: &CommandLine,
        flag: &Flag,
        settings: &mut Settings,
        imported: &mut Imported,
    ) -> Result<(), Box<Diagnostic>> {
        let shown = flag.shown();
        let mut fate = |text: &str| self.fates.push(format!("{shown}: {text}"));
        match flag.name.as_str() {
            "internal" if flag.is_on() => {
                fate("discovery.address: container");
                self.address = "container";
                self.internal = Some(shown);
            }
            "explicit" if flag.is_on() => {
                fate("discovery.containers: labelled");
                self.containers = "labelled";
                self.explicit = Some(shown);
            }
            "internal" | "explicit" => fate("the default"),
            "cleanup" => {
                fate(
                    "always so for what reeve registered; once, `reeve adopt --registrator` removes what registrator left",
                );
            }
            "resync" => fate(
                "always so: reeve looks at containers and catalog at least every 30s (`loop.resync`), and writes only what differs",
            ),
            "ip" => {
                fate("`advertise` in reeve.yaml");
                settings.set("advertise", flag.text(), &shown);
            }
            "tags" if flag.text().contains("{{") => {
                let reason = "its tags are a template over the container";
                self.gap(line, flag, reason, "write the tags as `SERVICE_TAGS` of each container", imported);
            }
            "tags" => {
                fate("discovery.tags");
                self.tags = listed(flag.text());
                self.tags_from = Some(shown);
            }
            "ttl" | "ttl-refresh" => {
                fate("not needed: registrator ignores it for Consul, too; reeve repairs what is missing in each pass")
            }
            "deregister" if flag.text() == "on-success" => {
                let reason = "reeve deregisters what does not run, whatever its exit code";
                self.gap(line, flag, reason, "`docker ps -a` shows what failed", imported);
            }
            "deregister" => fate("always so"),
            "retry-attempts" | "retry-interval" => {
                fate("not needed: reeve tries for ever, with growing pauses, and never exits for that")
            }
            "useIpFromLabel" => {
                let reason = "reeve takes addresses from Docker's networks";
                self.gap(line, flag, reason, "name the network in `discovery.networks`", imported);
            }
            "version" => fate("not needed"),
            other => {
                let problem =
                    Diagnostic::error(&line.place(&flag.word.range), format!("registrator has no flag `-{other}`"));
                return Err(Box::new(match crate::spec::suggest::did_you_mean(other, FLAGS) {
                    Some(help) => problem.with_help(help),
                    None => problem,
                }));
            }
        }
        Ok(())
    }

    fn text(&self, settings: &Settings) -> String {
        let mut text = settings.comment();
        let why = |from: &Option<String>, other: &'static str| match from {
            Some(flag) => format!("# {flag}"),
            None => format!("# {other}"),
        };
        text.push_str("discovery:\n");
        let mut line = |value: String, comment: String| text.push_str(&format!("  {value:<24} {comment}\n"));
        line(format!("containers: {}", self.containers), why(&self.explicit, "without -explicit"));
        line(format!("address: {}", self.address), why(&self.internal, "without -internal"));
        if !self.tags.is_empty() {
            line(format!("tags: {}", yaml::list(&self.tags)), why(&self.tags_from, ""));
        }
        line(
            "ids: registrator".to_owned(),
            "# <host>:<container>:<port>, as before; `reeve` is the default".to_owned(),
        );
        for mark in &self.marks {
            text.push_str(&format!("  # {mark}\n"));
        }
        text.push_str(
            "  # registrator published every SERVICE_* as metadata, secrets too; here only those that are listed:\n",
        );
        text.push_str("  #metadata: [team, version]\n");
        text.push_str("\n# What became of each flag:\n");
        for fate in &self.fates {
            text.push_str(&format!("#   {fate}\n"));
        }
        text
    }
}
