//! `redeliver completions` and `redeliver manual`: what a shell and `man` know about the commands.
//! Both are generated from the definition of the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::{Shell, generate};
use clap_mangen::{Man, generate_to};

use crate::process;

/// The name of the program.
const NAME: &str = "redeliver";

#[derive(Debug, Args)]
pub(crate) struct CompletionArguments {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManualArguments {
    /// Write the pages of all commands to this folder, instead of printing the first page
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Prints a script that completes the words of a command line.
pub(crate) fn completions(
    mut command: Command,
    arguments: &CompletionArguments,
) -> Result<ExitCode> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut command, NAME, &mut script);
    process::print(&String::from_utf8(script).context("the script is not UTF-8")?)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page of the program, or writes the pages of all commands to a folder.
pub(crate) fn manual(command: Command, arguments: &ManualArguments) -> Result<ExitCode> {
    match &arguments.folder {
        Some(folder) => write_pages(command, folder)?,
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            process::print(&String::from_utf8(page).context("the page is not UTF-8")?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_pages(command: Command, folder: &Path) -> Result<()> {
    let write = || {
        fs::create_dir_all(folder)?;
        generate_to(command, folder)
    };
    write().with_context(|| format!("cannot write the pages to {}", folder.display()))
}
