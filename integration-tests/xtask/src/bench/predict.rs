//! `cargo xtask bench predict`: what `greenboost plan` expects of a model against what a run of it takes.
//!
//! Both sides meet the same simulated GPU. The plan knows the model's file, the budget, and what `greenboost measure`
//! finds on that GPU. The run is a program that loads the model as llama.cpp does, under `gb-launch` with the same
//! budget; where every byte of it is, is up to the hook, and how long a kernel takes, to the bytes it reads there.

use super::passes::{Passes, Speeds, Start, Tensor};
use anyhow::{Context, Result, ensure};
use clap::Args;
use greenboost_gguf::write::Writer;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `cargo xtask bench predict`.
#[derive(Args)]
pub struct Options {
    /// Write the rows to FILE, or to stdout without one
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

const SPEEDS: Speeds = Speeds { vram: 0.6, link: 0.216, in_place: 0.2 };
/// Seconds for a weight and a token, in nanoseconds, of one multiprocessor at the simulated clock: as fast as an H200's
/// multiplies in llama.cpp's prompts.
const MULTIPLY_NS: f64 = 2.0 / (1.98 * 610.0);
/// Tokens that a kernel multiplies with a weight before it reads it again, in llama.cpp on an H200.
const TILE: u64 = 108;
const CONTEXT: u64 = 2048;
const UBATCHES: [u64; 2] = [512, 2048];
const VOCABULARY: u64 = 4096;
/// As the shipped rules have it for llama.cpp's kernels: experts of a token are read in place.
const KERNELS: &str = "gb_matvec\t_exps\tin-place\ngb_\t\tstream";
/// Further from one than this is a miss.
const TOLERANCE: f64 = 0.1;

struct Model {
    name: &'static str,
    architecture: &'static str,
    width: u64,
    ffn: u64,
    layers: u64,
    experts: u64,
    used: u64,
}

const MODELS: [Model; 2] = [
    Model { name: "dense", architecture: "llama", width: 1024, ffn: 4096, layers: 4, experts: 0, used: 0 },
    Model { name: "moe", architecture: "qwen3moe", width: 512, ffn: 768, layers: 4, experts: 16, used: 4 },
];

impl Model {
    /// The weights the GPU computes with, in the file's order.
    fn tensors(&self) -> Vec<Tensor> {
        let Self { width, ffn, experts, used, .. } = *self;
        let mut all = vec![Tensor::dense("output.weight", width, VOCABULARY)];
        for layer in 0..self.layers {
            let name = |name: &str| format!("blk.{layer}.{name}.weight");
            all.extend(
                ["attn_q", "attn_k", "attn_v", "attn_output"].map(|part| Tensor::dense(&name(part), width, width)),
            );
            for (part, cols, rows) in [("ffn_gate", width, ffn), ("ffn_up", width, ffn), ("ffn_down", ffn, width)] {
                all.push(match experts {
                    0 => Tensor::dense(&name(part), cols, rows),
                    _ => Tensor { experts, used, ..Tensor::dense(&name(&format!("{part}_exps")), cols, rows) },
                });
            }
        }
        all
    }

    /// How much longer its experts' products take than others of as many weights and tokens, in llama.cpp on an H200: each
    /// expert gets a small batch.
    fn slower(&self, tokens: u64) -> f64 {
        let each = (tokens * self.used.max(1) / self.experts.max(1)) as f64;
        (1.0 / (0.105 * each.powf(0.2))).max(1.0)
    }

    /// The file: a header, and a hole where the weights are.
    fn writer(&self) -> Writer {
        let mut writer =
            Writer::default().text("general.architecture", self.architecture).text("general.name", self.name);
        for (key, value) in [
            ("block_count", self.layers),
            ("context_length", CONTEXT),
            ("embedding_length", self.width),
            ("feed_forward_length", self.ffn),
            ("attention.head_count", self.width / 128),
            ("attention.head_count_kv", self.width / 128),
            ("attention.key_length", 128),
            ("attention.value_length", 128),
            ("expert_count", self.experts),
            ("expert_used_count", self.used),
        ] {
            writer = writer.number(&format!("{}.{key}", self.architecture), value as u32);
        }
        writer = writer.tensor("token_embd.weight", &[self.width, VOCABULARY], "Q8_0");
        for Tensor { name, cols, rows, experts, .. } in self.tensors() {
            let shape = if experts > 1 { vec![cols, rows, experts] } else { vec![cols, rows] };
            writer = writer.tensor(&name, &shape, "Q8_0");
        }
        writer
    }
}

struct Row {
    model: &'static str,
    strategy: &'static str,
    test: String,
    vram: u64,
    /// Bytes of weights that the plan expects outside VRAM, and those that were there.
    outside: [u64; 2],
    /// Tokens a second.
    predicted: f64,
    /// Tokens a second.
    measured: f64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.predicted / self.measured
    }
}

/// Measures, prints, and writes the rows where that was asked for.
///
/// # Errors
/// When something cannot be built or run. A missed prediction is reported, not an error.
pub fn run(options: &Options) -> Result<ExitCode> {
    let passes = Passes::build(SPEEDS)?;
    let mut rows = Vec::new();
    let mut rates = Value::Null;
    for model in &MODELS {
        measure(&passes, model, &mut rows, &mut rates)?;
    }
    let array: Vec<_> = rows.iter().map(|row| as_json(row, &rates)).collect();
    let text = serde_json::to_string_pretty(&array).context("rows as JSON")? + "\n";
    match &options.json {
        Some(path) if path.as_os_str() == "-" => print!("{text}"),
        Some(path) => fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?,
        None => {}
    }
    if options.json.as_ref().is_none_or(|path| path.as_os_str() != "-") {
        print(&rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(passes: &Passes, model: &Model, rows: &mut Vec<Row>, rates: &mut Value) -> Result<()> {
    let file = passes.folder.join(format!("{}.gguf", model.name));
    model.writer().save(&file).with_context(|| format!("cannot write {}", file.display()))?;
    let tensors = model.tensors();
    let weights: u64 = tensors.iter().map(Tensor::bytes).sum();
    let plan = |vram: u64, ubatch: u64, measure: bool| {
        let options = [("--vram", vram), ("--ctx", CONTEXT), ("--ubatch", ubatch), ("--ram", 8 << 30)];
        let options: Vec<_> =
            options.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]).collect();
        passes.plan(&file, &options, measure)
    };
    let mut fresh = rates.is_null();
    for ubatch in UBATCHES {
        let whole = plan(1 << 40, ubatch, std::mem::take(&mut fresh))?;
        *rates = whole["machine"]["gpu"]["rates"].clone();
        let inside = prediction(&whole, "vram")?;
        let bytes = |key: &str| inside["placement"][key].as_u64().with_context(|| format!("no {key} in {inside}"));
        let (kv, scratch) = (bytes("kv_inside")?, bytes("scratch")? + bytes("pools")?);
        let tight = plan(kv + scratch + weights / 2, ubatch, false)?;
        let mut checksum = None;
        let room = kv + scratch + weights / 2;
        for (strategy, plan, vram, load, rules, stream) in [
            ("vram", &whole, kv + scratch + weights + (64 << 20), "tensors", &[][..], "off"),
            ("extend", &tight, room, "blind", &[], "off"),
            ("extend-in-place", &tight, room, "tensors", &["_exps=auto", ".*=vram"], "off"),
            ("extend", &tight, room, "tensors", &["_exps=auto", ".*=vram"], "on"),
        ] {
            if strategy == "extend-in-place" && model.experts == 0 {
                // Every token reads every weight: which of them are outside makes no difference.
                continue;
            }
            eprintln!("{} {strategy}, micro-batch {ubatch}", model.name);
            let slower = model.slower(ubatch);
            let script = format!(
                "buffers {kv} {scratch}\nload {load}\ndecode 6\nprefill 4 {ubatch} {TILE} {MULTIPLY_NS:.9} {slower:.6}\n"
            );
            let mut options = vec!["--vram".to_owned(), vram.to_string()];
            options.extend(rules.iter().flat_map(|rule| ["--place".to_owned(), (*rule).to_owned()]));
            let expected = prediction(plan, strategy)?;
            if let Some(ring) = expected["placement"]["ring"].as_u64().filter(|_| stream == "on") {
                options.extend(["--ring".to_owned(), ring.to_string()]);
            }
            let environment = vec![("GREENBOOST_STREAM", stream), ("GREENBOOST_KERNELS", KERNELS)];
            let start = Start { options, environment };
            let output = passes.run(&tensors, &script, &start)?;
            ensure!(*checksum.get_or_insert_with(|| output.checksum.clone()) == output.checksum, "another answer");
            let bytes = |part: &str| expected["placement"]["outside"][part]["bytes"].as_u64().unwrap_or_default();
            let outside = [bytes("dense") + bytes("experts"), output.outside];
            let mut row = |test: String, tokens: u64, kind: &str| -> Result<()> {
                let predicted = expected[kind].as_f64().with_context(|| format!("no {kind} in {expected}"))?;
                let measured = tokens as f64 / output.middle(kind)?;
                rows.push(Row { model: model.name, strategy, test, vram, outside, predicted, measured });
                Ok(())
            };
            if ubatch == UBATCHES[0] {
                row("decode".to_owned(), 1, "decode")?;
            }
            row(format!("prefill/{ubatch}"), ubatch, "prefill")?;
        }
    }
    Ok(())
}

fn prediction<'a>(plan: &'a Value, strategy: &str) -> Result<&'a Value> {
    let mut all = plan["predictions"].as_array().into_iter().flatten();
    all.find(|prediction| prediction["strategy"] == strategy).with_context(|| format!("no {strategy} in {plan}"))
}

fn print(rows: &[Row]) {
    println!("tokens a second on the simulated GPU");
    println!(
        "{:8} {:18} {:14} {:>12} {:>8} {:>10} {:>10} {:>7}",
        "model", "strategy", "test", "MiB outside", "expected", "predicted", "measured", "ratio"
    );
    for row in rows {
        let verdict = if (row.ratio() - 1.0).abs() <= TOLERANCE { "" } else { "  MISSED" };
        let Row { model, strategy, test, outside, predicted, measured, .. } = row;
        let [expected, outside] = outside.map(|bytes| bytes >> 20);
        println!(
            "{model:8} {strategy:18} {test:14} {outside:>12} {expected:>8} {predicted:>10.2} {measured:>10.2} {:>7.3}{verdict}",
            row.ratio()
        );
    }
}

fn as_json(row: &Row, rates: &Value) -> Value {
    let digits = |value: f64| (value * 1000.0).round() / 1000.0;
    json!({
        "test": "predict",
        "driver": "simulated",
        "set_gbps": { "vram": SPEEDS.vram, "link": SPEEDS.link, "in_place": SPEEDS.in_place },
        "measured_gbps": rates,
        "model": row.model,
        "strategy": row.strategy,
        "phase": row.test,
        "vram_bytes": row.vram,
        "predicted_outside_bytes": row.outside[0],
        "outside_bytes": row.outside[1],
        "predicted_tokens_per_s": digits(row.predicted),
        "measured_tokens_per_s": digits(row.measured),
        "ratio": digits(row.ratio()),
        "within": TOLERANCE,
        "met": (row.ratio() - 1.0).abs() <= TOLERANCE,
    })
}
