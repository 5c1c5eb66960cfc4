//! `cargo xtask bench`: measures the product, and makes tables and charts of what it finds.
//!
//! Each part is a bench target of `lb-tests` (`tests/benches/`; what it prints is settled in `tests/src/bench.rs`).
//! This runs them one after the other, and knows of no part more than the order of its columns.

mod chart;
mod compare;
mod fields;
mod machine;
mod part;
mod results;
mod svg;
mod table;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::{Output, product, setup, shell};
use part::Part;
use results::Line;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: Option<Saved>,
    /// What to measure [default: everything]
    #[arg(value_enum, value_name = "PART")]
    parts: Vec<Part>,
    /// Turns of every variant [default: 9, with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Fewer and smaller cases: to see whether it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Only cases whose name has this in it; may be repeated
    #[arg(long = "case", value_name = "TEXT")]
    cases: Vec<String>,
    /// Draw the results, too
    #[arg(long, value_name = "FILE.svg")]
    chart: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What can be done with results of earlier runs.
#[derive(Subcommand)]
enum Saved {
    /// Two results side by side: what became faster or slower by more than noise
    Compare {
        #[arg(value_name = "OLD.json")]
        old: PathBuf,
        #[arg(value_name = "NEW.json")]
        new: PathBuf,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// The tables of a saved result
    Show {
        #[arg(value_name = "FILE.json")]
        file: PathBuf,
        /// Draw them, too
        #[arg(long, value_name = "FILE.svg")]
        chart: Option<PathBuf>,
    },
    /// The XDP mode of a lab's interface, for the line about the machine
    #[command(hide = true)]
    XdpMode { lb: PathBuf },
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match &bench.command {
        Some(Saved::Compare { old, new, output }) => compare::run(old, new, *output),
        Some(Saved::Show { file, chart }) => show(file, chart.as_deref()),
        Some(Saved::XdpMode { lb }) => machine::print_xdp_mode(lb),
        None => measure(bench),
    }
}

fn measure(bench: &Bench) -> Result<()> {
    let parts = match bench.parts.as_slice() {
        [] => Part::ALL.to_vec(),
        parts => parts.to_vec(),
    };
    // Whatever needs no root needs no lab either.
    let needs_root = parts.iter().any(|part| part.needs_root());
    setup::run(needs_root)?;
    let lb = product::build_lb()?;
    if needs_root && shell::is_root() {
        lb_tests::down_stale()?;
    }
    let mut saved = Saving::begin()?;
    let mut lines = vec![machine::line(bench, needs_root.then_some(&*lb))?];
    saved.take(&lines[0], bench.output)?;
    if matches!(bench.output, Output::Text) {
        print!("{}", machine::text(&lines[0]));
    }
    let mut failed = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        eprintln!("==> {part} ({} of {})", at + 1, parts.len());
        let mut own = Vec::new();
        let done = part::run(*part, bench, &lb, |line| {
            saved.take(&line, bench.output)?;
            own.push(line);
            Ok(())
        });
        if matches!(bench.output, Output::Text) {
            println!("{}", table::tables(&own));
        }
        lines.append(&mut own);
        if let Err(why) = done {
            eprintln!("error: {part}: {why:#}");
            failed.push(part.to_string());
        }
    }
    if let Some(file) = &bench.chart {
        draw(&lines, file)?;
    }
    eprintln!("results: {}", saved.path.display());
    if !failed.is_empty() {
        bail!("{} of {} parts failed: {}", failed.len(), parts.len(), failed.join(", "));
    }
    Ok(())
}

fn show(file: &Path, chart: Option<&Path>) -> Result<()> {
    let lines = results::read(file)?;
    for line in lines.iter().filter(|line| line.part == machine::PART) {
        print!("{}", machine::text(line));
    }
    for part in results::parts(&lines) {
        let own: Vec<Line> = lines.iter().filter(|line| line.part == part).cloned().collect();
        println!("==> {part}");
        println!("{}", table::tables(&own));
    }
    chart.map_or(Ok(()), |chart| draw(&lines, chart))
}

fn draw(lines: &[Line], file: &Path) -> Result<()> {
    let chart = chart::chart(lines).context("none of these results has a chart")?;
    fs::write(file, chart).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("chart: {}", file.display());
    Ok(())
}

/// Results on their way to the file they are kept in, and with `-o json` to standard output.
struct Saving {
    path: PathBuf,
    file: fs::File,
}

impl Saving {
    fn begin() -> Result<Self> {
        let directory = product::target_dir().join("bench");
        let now = shell::capture(Command::new("date").args(["-u", "+%Y-%m-%dT%H-%M-%SZ"]))?;
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{now}.json"));
        let file = fs::File::create(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn take(&mut self, line: &Line, output: Output) -> Result<()> {
        writeln!(self.file, "{}", line.text)?;
        if matches!(output, Output::Json) {
            println!("{}", line.text);
        }
        Ok(())
    }
}
