//! The manual page and the completions of three shells, made from the same tables as the help. They
//! lie in `scripts/deploy`, for packages; `UPDATE_GOLDEN=1 cargo test --lib pages` writes them anew.

use super::help::{COMMANDS, EXAMPLES, FlagEntry, flag_sections};

/// Returns the manual page, in the macros of man(7).
fn manual() -> String {
    let mut page = String::from(
        ".TH MIDGE 1 \"\" \"Midge\" \"User Commands\"\n\
         .SH NAME\nmidge \\- a NATS server for Linux\n\
         .SH SYNOPSIS\n.B midge\n[\\fIoptions\\fR]\n.br\n.B midge store\n\\fIcommand\\fR \\fIfolder\\fR\n\
         .SH DESCRIPTION\n\
         Midge takes the place of nats-server: it speaks the same protocol and reads the same\n\
         configuration file. Started under the name nats-server it has that program's texts and exit\n\
         codes. A flag wins over the configuration file.\n",
    );
    for (title, entries) in flag_sections() {
        page.push_str(&format!(".SH {}\n", roff(&title.to_uppercase())));
        for entry in entries {
            page.push_str(&format!(
                ".TP\n\\fB{}\\fR\n{}\n",
                roff(&entry.title()),
                roff(&entry.help)
            ));
        }
    }
    for (title, lines) in [("COMMANDS", COMMANDS), ("EXAMPLES", EXAMPLES)] {
        page.push_str(&format!(".SH {title}\n"));
        for (left, help) in lines {
            page.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", roff(left), roff(help)));
        }
    }
    page.push_str(
        ".SH SIGNALS\n\
         .TP\nSIGHUP\nread the configuration file again\n\
         .TP\nSIGUSR1\nopen the log file again\n\
         .TP\nSIGUSR2\nenter lame duck mode: clients leave one by one, then the server ends\n\
         .TP\nSIGINT, SIGTERM\nend\n\
         .SH SEE ALSO\n.BR midge-bench (1)\n",
    );
    page
}

/// Escapes what troff would take as a command.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// How the shell is to complete the value of a flag.
fn is_path(entry: &FlagEntry) -> bool {
    ["<file>", "<dir>", "<path>", "<folder>"].contains(&entry.argument)
}

fn all_flags() -> Vec<FlagEntry> {
    flag_sections().into_iter().flat_map(|(_, entries)| entries).collect()
}

fn bash() -> String {
    let flags = all_flags();
    let names = |chosen: &dyn Fn(&FlagEntry) -> bool, between: &str| {
        let chosen = flags.iter().filter(|entry| chosen(entry));
        chosen.flat_map(|entry| entry.names.iter().cloned()).collect::<Vec<_>>().join(between)
    };
    format!(
        "# Made from the option table; do not edit.\n\
         _midge() {{\n\
         \x20   local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}\n\
         \x20   if [[ ${{COMP_WORDS[1]}} == store ]] && ((COMP_CWORD > 1)); then\n\
         \x20       COMPREPLY=($(compgen -W 'check repair --dry-run' -- \"$word\") $(compgen -d -- \"$word\"))\n\
         \x20       return\n\
         \x20   fi\n\
         \x20   case $before in\n\
         \x20       {}) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n\
         \x20       {}) return ;;\n\
         \x20   esac\n\
         \x20   COMPREPLY=($(compgen -W '{} store' -- \"$word\"))\n\
         }}\n\
         complete -o filenames -F _midge midge\n",
        names(&is_path, " | "),
        names(&|entry| !entry.argument.is_empty() && !is_path(entry), " | "),
        names(&|_| true, " "),
    )
}

fn zsh() -> String {
    let mut text =
        String::from("#compdef midge\n# Made from the option table; do not edit.\n_arguments \\\n");
    for entry in all_flags() {
        let value = match entry.argument {
            "" => String::new(),
            argument if is_path(&entry) => format!(":{argument}:_files"),
            argument => format!(":{argument}:"),
        };
        let help = quoted(&entry.help);
        let help = help.replace(':', "\\:").replace('[', "\\[").replace(']', "\\]");
        let others = entry.names.join(" ");
        for name in &entry.names {
            text.push_str(&format!("  '({others}){name}[{help}]{value}' \\\n"));
        }
    }
    text.push_str("  '1::command:(store)' \\\n  '*::folder:_files'\n");
    text
}

fn fish() -> String {
    let mut text = String::from("# Made from the option table; do not edit.\n");
    for entry in all_flags() {
        let names = entry.names.iter().map(|name| match name.strip_prefix("--") {
            Some(long) => format!(" --long-option {long}"),
            None if name.len() == 2 => format!(" --short-option {}", &name[1..]),
            None => format!(" --old-option {}", &name[1..]),
        });
        let value = match entry.argument {
            "" => "",
            _ if is_path(&entry) => " --require-parameter --force-files",
            _ => " --exclusive",
        };
        let names: String = names.collect();
        let help = quoted(&entry.help);
        text.push_str(&format!("complete --command midge{names}{value} --description '{help}'\n"));
    }
    text
}

/// Text between single quotes of a shell.
fn quoted(text: &str) -> String {
    text.replace('\'', "’")
}

#[test]
fn pages_equal_the_tables() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deploy");
    for (file, expected) in [
        ("man/midge.1", manual()),
        ("completions/midge.bash", bash()),
        ("completions/_midge", zsh()),
        ("completions/midge.fish", fish()),
    ] {
        let path = format!("{folder}/{file}");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &expected).expect("the page can be written");
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            page == expected,
            "{file}: run UPDATE_GOLDEN=1 cargo test --lib pages, read the diff"
        );
    }
}
