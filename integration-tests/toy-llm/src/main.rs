//! A small GGUF inference program on the CUDA driver, with the memory behaviour of llama.cpp: one large allocation for
//! the weights, then the KV buffer, then scratch. Its answer is a checksum that must not depend on where memory lives.
//!
//! `llama-server`'s behaviours that Ollama's discovery relies on are here too: `--list-devices`, and a start without a
//! model that prints "system_info:" and then waits to be killed.

mod cpu;
mod cuda;
mod gguf;
mod gpu;
mod make;
mod plan;
mod pool;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use cuda::Driver;
use greenboost_contract::size::parse_size;
use plan::{Answer, Plan};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "A small GGUF inference program on the CUDA driver", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Make a model of random weights
    Make(Make),
}

#[derive(Args)]
struct Make {
    /// The file to write
    #[arg(long)]
    out: PathBuf,
    /// About this many bytes, instead of a shape
    #[arg(long, value_parser = |text: &str| parse_size(text), conflicts_with_all = ["layers", "dim", "vocab"])]
    size: Option<u64>,
    /// Transformer layers
    #[arg(long, default_value_t = 4)]
    layers: u32,
    /// Model width, a multiple of 32
    #[arg(long, default_value_t = 256)]
    dim: u32,
    /// Tokens in the vocabulary
    #[arg(long, default_value_t = 1024)]
    vocab: u32,
    /// The same seed gives the same file
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct Run {
    /// The model
    #[arg(short, long)]
    model: Option<PathBuf>,
    /// Tokens to generate
    #[arg(short = 'n', long, default_value_t = 8)]
    tokens: u32,
    /// Tokens the KV buffer has room for
    #[arg(short, long, default_value_t = 512)]
    context: u32,
    /// Streams to spread the work over
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Run each token as a captured graph
    #[arg(long)]
    graph: bool,
    /// Upload in pieces on a stream, as without a file mapping
    #[arg(long)]
    pieces: bool,
    /// Print where the buffers are
    #[arg(long)]
    map: bool,
    /// Compute on the CPU
    #[arg(long)]
    cpu: bool,
    /// Print "ready" with everything still allocated, and go on when stdin ends
    #[arg(long)]
    hold: bool,
    /// Print the devices and exit
    #[arg(long)]
    list_devices: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Make(options)) => make_model(&options),
        None if cli.run.list_devices => list_devices(),
        None if cli.run.model.is_none() => wait_without_model(),
        None => run_model(&cli.run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("toy-llm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make_model(options: &Make) -> Result<()> {
    let shape = match options.size {
        Some(bytes) => make::Shape::of_size(bytes),
        None => make::Shape { layers: options.layers, dim: options.dim, vocab: options.vocab },
    };
    make::make(&options.out, shape, options.seed)
}

/// As `llama-server --list-devices` prints them; Ollama parses this.
fn list_devices() -> Result<()> {
    println!("Available devices:");
    if let Some(driver) = Driver::open()? {
        for index in 0..driver.devices() {
            let device = driver.enter(index)?;
            let (free, total) = driver.memory()?;
            println!("  CUDA{index}: {} ({} MiB, {} MiB free)", driver.name(device)?, total >> 20, free >> 20);
            driver.leave(device)?;
        }
    }
    Ok(())
}

/// Without a model llama-server initialises its backends, reports them, and serves; discovery kills it then.
fn wait_without_model() -> Result<()> {
    let driver = Driver::open()?;
    if let Some(driver) = &driver {
        eprintln!("ggml_cuda_init: found {} CUDA devices:", driver.devices());
        for index in 0..driver.devices() {
            let device = driver.enter(index)?;
            eprintln!("  Device {index}: {}", driver.name(device)?);
            driver.memory()?;
        }
    }
    eprintln!("system_info: n_threads = 1 | CUDA : {} |", driver.map_or(0, |driver| driver.devices()));
    loop {
        std::thread::park();
    }
}

fn run_model(run: &Run) -> Result<()> {
    let path = run.model.as_ref().context("no model")?;
    let model = gguf::Model::open(path)?;
    let plan = Plan::of(&model)?;
    anyhow::ensure!(run.tokens <= run.context, "-n {} needs at least -c {}", run.tokens, run.tokens);
    let driver = if run.cpu { None } else { Driver::open()? };
    let Some(driver) = driver else {
        print(&cpu::generate(&model, &plan, run.tokens, run.context)?);
        return Ok(());
    };
    let options = gpu::Options { context: run.context, streams: run.streams, graph: run.graph, pieces: run.pieces };
    let engine = gpu::Engine::load(&driver, &model, &plan, options)?;
    drop(model); // as llama.cpp unmaps what went to the GPU
    let answer = engine.generate(run.tokens)?;
    if run.map {
        for (name, address, bytes) in engine.map() {
            println!("{name} {bytes} bytes at {address:#x}");
        }
    }
    print(&answer);
    if run.hold {
        println!("ready");
        std::io::stdout().flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    engine.close()
}

fn print(answer: &Answer) {
    let tokens: Vec<_> = answer.tokens.iter().map(u32::to_string).collect();
    println!("tokens {}", tokens.join(" "));
    println!("checksum {:#018x}", answer.checksum);
}
