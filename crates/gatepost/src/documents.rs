//! What gatepost says about itself, made of what it is: the schema and the reference of its configuration, completions, the manual page.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::{Arguments, Format};

/// `gatepost schema`.
pub(crate) fn schema(format: Format, out: &mut impl Write) -> Result<ExitCode> {
    match format {
        Format::Json => writeln!(out, "{:#}", gatepost_config::schema())?,
        Format::Markdown => write!(out, "{}", gatepost_config::reference_page())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `gatepost completions`.
pub(crate) fn completions(shell: Shell, out: &mut impl Write) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "gatepost", &mut script);
    out.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// `gatepost man`: one page, with the commands in it.
pub(crate) fn man(out: &mut impl Write) -> Result<ExitCode> {
    let command = Arguments::command().subcommand_value_name("command");
    let commands: Vec<_> = command.get_subcommands().cloned().collect();
    let page = Man::new(command).manual("gatepost");
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    writeln!(out, ".SH DESCRIPTION\n{DESCRIPTION}\n.SH COMMANDS")?;
    for command in commands {
        let name = command.get_name().to_owned();
        let about = command.get_about().map(ToString::to_string);
        // That each has `--help` is said once.
        let mut command = command
            .bin_name(format!("gatepost {name}"))
            .disable_help_flag(true);
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").to_owned();
        let page = Man::new(command.override_usage(usage));
        writeln!(out, ".SS {name}")?;
        without_heading(out, |it| page.render_synopsis_section(it))?;
        writeln!(out, ".PP\n{}.", about.unwrap_or_default())?;
        without_heading(out, |it| page.render_options_section(it))?;
    }
    write!(out, "{SECTIONS}")?;
    page.render_version_section(out)?;
    Ok(ExitCode::SUCCESS)
}

const DESCRIPTION: &str = "\
gatepost takes HTTP requests for a mail-injection API, finds out who sends them, and forwards them to the MTA with that identity in a
header that nobody else can set, or refuses them.
What is accepted is said by a policy in Lua, everything else by a configuration in YAML.
Every command has
.BR --help .";

/// What is not about one command. docs/operations.md has the whole of it.
const SECTIONS: &str = r".SH SIGNALS
.TP
.B SIGTERM
Stops without losing a request; a second one ends at once.
.TP
.B SIGINT
Ends at once.
.TP
.B SIGHUP
Reads configuration and policy again, and opens the audit log's file anew.
.TP
.B SIGQUIT
Starts the program anew and hands it the sockets, so that a new binary takes over without a gap.
.SH EXIT STATUS
.TP
.B 0
It went well, or the end was asked for.
.TP
.B 1
A fault, or the answer is no.
.TP
.B 2
The command line cannot be read; of
.BR replay ,
its files.
";

/// A section of a page as part of another.
fn without_heading(
    out: &mut impl Write,
    render: impl Fn(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let mut section = Vec::new();
    render(&mut section)?;
    for line in section.split_inclusive(|byte| *byte == b'\n') {
        if !line.starts_with(b".SH") {
            out.write_all(line)?;
        }
    }
    Ok(())
}
