//! Operator commands, `tempo-rs cli …`: what is stored, whether it is sound, and how to repair or move it.
//!
//! Names and arguments are those that users of the compatible system's command line know; every command takes `--json`. Commands work on the
//! object store directly, except `query api`, which asks a running process.
//!
//! Not here: the work itself. Blocks are read and written by `tempodb`, queries run through the querier.

mod output;
mod progress;
mod storage;
mod list;
mod view;
mod query_api;
mod query;
mod generate;
mod rewrite;
mod convert;
mod analyse;
mod migrate;
mod export;
mod flat_spans;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use self::output::Output;
use self::storage::{BackendOptions, Storage};

/// Operator commands over the blocks in object storage.
#[derive(Debug, Parser)]
#[command(name = "tempo-rs cli", disable_version_flag = true)]
struct Arguments {
    #[command(flatten)]
    backend: BackendOptions,
    /// Print JSON for scripts instead of tables for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists what is stored.
    #[command(subcommand)]
    List(list::ListCommand),
    /// Shows the inside of a block's objects.
    #[command(subcommand)]
    View(view::ViewCommand),
    /// Asks for traces: a running process, or all blocks one by one.
    #[command(subcommand)]
    Query(QueryCommand),
    /// Searches blocks without a running process.
    #[command(subcommand)]
    Search(query::SearchCommand),
    /// Builds objects of a block anew from its data.
    #[command(subcommand)]
    Gen(generate::GenCommand),
    /// Rewrites blocks without some traces.
    #[command(name = "rewrite-blocks", subcommand)]
    RewriteBlocks(rewrite::RewriteCommand),
    /// Writes blocks in another version of the format.
    #[command(subcommand)]
    Convert(convert::ConvertCommand),
    /// Says which attributes take most room and deserve dedicated columns.
    #[command(subcommand, alias = "analyze")]
    Analyse(analyse::AnalyseCommand),
    /// Moves data.
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Writes spans to a file that other tools read.
    Export(export::ExportCommand),
}

#[derive(Debug, Subcommand)]
enum QueryCommand {
    /// Asks the HTTP API of a running process.
    #[command(subcommand)]
    Api(query_api::ApiCommand),
    /// Looks a trace up in every block of a tenant.
    Blocks(query::TraceArguments),
    /// Summarises a trace: blocks, spans, size, services, largest attributes.
    #[command(name = "trace-summary")]
    TraceSummary(query::TraceArguments),
}

/// Runs the command that `arguments` (without the program's name and `cli`) name.
pub(super) fn main(arguments: &[String]) -> ExitCode {
    let parsed = Arguments::try_parse_from(std::iter::once("tempo-rs cli").chain(arguments.iter().map(String::as_str)));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(problem) if problem.use_stderr() => {
            super::complain(problem.to_string().trim_end());
            return ExitCode::from(2);
        }
        Err(help) => return super::print(&help.to_string()),
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads our output may stop early, as `head` does.
        Err(failure) if is_closed_pipe(&failure) => ExitCode::SUCCESS,
        Err(failure) => {
            super::complain(&format!("error: {failure:#}"));
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(failure: &anyhow::Error) -> bool {
    let io = failure.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut output = Output::new(arguments.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let out = &mut output;
        let storage = || Storage::open(&arguments.backend);
        match arguments.command {
            Command::List(command) => command.run(&storage()?, out).await,
            Command::View(command) => command.run(&storage()?, out).await,
            Command::Query(QueryCommand::Api(command)) => command.run(out).await,
            Command::Query(QueryCommand::Blocks(command)) => command.run(&storage()?, out).await,
            Command::Query(QueryCommand::TraceSummary(command)) => command.summarise(&storage()?, out).await,
            Command::Search(command) => command.run(&storage()?, out).await,
            Command::Gen(command) => command.run(&storage()?, out).await,
            Command::RewriteBlocks(command) => command.run(&storage()?, out).await,
            Command::Convert(command) => command.run(&storage()?, out).await,
            Command::Analyse(command) => command.run(&storage()?, out).await,
            Command::Migrate(command) => command.run(&storage()?, out).await,
            Command::Export(command) => command.run(&storage()?, out).await,
        }
    })?;
    output.finish()
}
