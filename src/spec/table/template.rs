//! reeve's own key `templates`.

use super::{Kind, Table, key};

/// A text, a list, or how long it may take as well.
const COMMAND_KIND: Kind = Kind::Either(&[Kind::Command, Kind::Mapping(&COMMAND)]);

pub static TEMPLATE: Table = Table::new(
    "a template",
    "A file that is rendered from Consul's data, and what is run when it has changed.",
    &[
        key("source", Kind::Text, "File with the template; relative to the spec's folder."),
        key("contents", Kind::Text, "The template itself, in place of `source`."),
        key("destination", Kind::Text, "The file to write, absolute, in a folder that `templates.allow` names."),
        key("check", COMMAND_KIND, "Runs on the new file (`{file}`) before the old one is replaced."),
        key("command", COMMAND_KIND, "Runs once when all templates that share it are in place."),
        key("signal", Kind::Mapping(&SIGNAL), "A signal, in place of or after the command."),
        key("perms", Kind::Text, "Mode in octal digits; default: the old file's, else `0644`."),
        key("user", Kind::Text, "Owner; default: the old file's."),
        key("group", Kind::Text, "Group; default: the old file's."),
        key("backup", Kind::Boolean, "Keep what is replaced as `<destination>.bak`."),
        key("delimiters", Kind::Mapping(&DELIMITERS), "What begins and ends blocks, variables and comments."),
        key(
            "wait",
            Kind::Either(&[Kind::Duration, Kind::Mapping(&WAIT)]),
            "How long changes are gathered; default: no longer than the loop does.",
        ),
        key("error_on_missing", Kind::Boolean, "A key that does not exist is an error; default: true."),
    ],
);

static COMMAND: Table = Table::new(
    "a command",
    "What is executed, and how long it may take; exactly one of exec, shell.",
    &[
        key("exec", Kind::Command, "Program and arguments, without a shell."),
        key("shell", Kind::Text, "A line for `/bin/sh -c`."),
        key("timeout", Kind::Duration, "Then it is killed with all that it started; default: 30s."),
    ],
)
.without_extensions();

static SIGNAL: Table = Table::new(
    "a signal",
    "A signal to a process or to the containers of a service.",
    &[
        key("signal", Kind::Text, "`HUP`, `USR1`, …"),
        key("pid_file", Kind::Text, "File with the number of the process, absolute."),
        key("service", Kind::Text, "Service of this spec, whose running containers get it."),
    ],
)
.without_extensions();

static DELIMITERS: Table = Table::new(
    "a delimiters section",
    "What begins and ends the parts of a template.",
    &[
        key("block", Kind::List, "Default: `{%` and `%}`."),
        key("variable", Kind::List, "Default: `{{` and `}}`."),
        key("comment", Kind::List, "Default: `{#` and `#}`."),
    ],
)
.without_extensions();

static WAIT: Table = Table::new(
    "a wait section",
    "How long changes are gathered before the file is written.",
    &[
        key("min", Kind::Duration, "The data must have been quiet for so long."),
        key("max", Kind::Duration, "Longest wait after the first change; default: four times `min`."),
    ],
)
.without_extensions();
