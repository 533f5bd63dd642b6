//! A plan as text and as JSON.

use super::commands;
use super::facts::Class;
use super::measure::oddities;
use super::measure::{Rates, Together};
use super::planned::Plan;
use super::predict::{ANSWER, PROMPT, Prediction};
use greenboost_contract::format_size;
use serde_json::{Value, json};
use std::fmt::Write;

/// What no short measurement can tell.
const ESTIMATED: &str =
    "Estimated, from llama-bench on one H200: how fast this GPU multiplies, what its kernels make of the
measured rates, load time. Speeds are for one conversation at its start.";

fn rate(value: Option<f64>) -> String {
    match value {
        None => "?".to_owned(),
        Some(value) => commands::significant(value),
    }
}

/// The text.
pub fn text(plan: &Plan) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = head(&mut text, plan).and_then(|()| table(&mut text, plan)).and_then(|()| tail(&mut text, plan));
    text
}

fn head(text: &mut String, plan: &Plan) -> std::fmt::Result {
    let experts = if plan.experts.0 > 0 {
        format!(", {} experts, {} used", plan.experts.0, plan.experts.1)
    } else {
        String::new()
    };
    writeln!(
        text,
        "Model    {} ({}), {}, {} layers{experts}, trained for {} tokens",
        plan.name,
        plan.architecture,
        format_size(plan.file_bytes),
        plan.layers,
        plan.trained_context
    )?;
    let classes: Vec<_> =
        plan.classes.iter().map(|(class, bytes)| format!("{} {}", class.name(), format_size(*bytes))).collect();
    writeln!(text, "         {}", classes.join(", "))?;
    let bound = if plan.is_upper_bound { format!(" ({})", commands::UPPER_BOUND) } else { String::new() };
    writeln!(text, "         KV cache {} a token{bound}", format_size(plan.kv_per_token))?;
    match &plan.figures.gpu {
        None => writeln!(text, "Machine  no GPU")?,
        Some(gpu) => {
            writeln!(
                text,
                "Machine  {}, driver {}, {} free of {}",
                gpu.name,
                gpu.driver,
                format_size(gpu.free),
                format_size(gpu.total)
            )?;
            if let several @ [_, _, ..] = &plan.figures.gpus[..] {
                let free: Vec<_> = several.iter().map(|free| format_size(*free)).collect();
                writeln!(text, "         {} GPUs: {} free", several.len(), free.join(", "))?;
            }
            let rates = Rates::NAMES.iter().map(|(name, words)| format!("{words} {}", rate(gpu.rates.get(name))));
            writeln!(text, "         GB/s: {}", rates.collect::<Vec<_>>().join(", "))?;
        }
    }
    let cpu = plan.figures.cpu.best();
    let threads = cpu.map_or(0, |(threads, _)| threads);
    writeln!(
        text,
        "         GB/s: CPU {} ({threads} threads), disk {}{}",
        rate(cpu.map(|(_, rate)| rate)),
        rate(plan.figures.disk),
        plan.figures.together.map_or_else(String::new, |Together { cpu, link, .. }| format!(
            ", at once CPU {} and link {}",
            rate(Some(cpu)),
            rate(Some(link))
        ))
    )?;
    if let Some(conditions) = &plan.figures.conditions {
        writeln!(text, "         {}", conditions.text())?;
    }
    let setting = &plan.setting;
    writeln!(
        text,
        "Asked    {} of VRAM, {} of RAM, {} tokens of context for {}, KV cache in {}\n",
        format_size(setting.vram),
        format_size(setting.ram),
        setting.context.tokens,
        match (setting.context.slots, setting.context.unified) {
            (1, _) => "one conversation".to_owned(),
            (slots, true) => format!("{slots} conversations that share it"),
            (slots, false) => format!("{slots} conversations, each with its part"),
        },
        setting.context.kv.k.name
    )
}

fn table(text: &mut String, plan: &Plan) -> std::fmt::Result {
    let winner = plan.winner();
    writeln!(
        text,
        "  {:<24} {:>10} {:>10} {:>8} {:>11} {:>11}  ubatch",
        "", "prompt t/s", "answer t/s", "load s", "VRAM", "RAM"
    )?;
    for prediction in &plan.predictions {
        let chosen = winner.is_some_and(|winner| winner.strategy == prediction.strategy);
        let note = prediction.problem.as_ref().map_or_else(String::new, |problem| format!("  {problem}"));
        writeln!(
            text,
            "{} {:<24} {:>10} {:>10} {:>8} {:>11} {:>11}  {:<6}{note}",
            if chosen { '*' } else { ' ' },
            commands::name(plan, prediction),
            rate(prediction.prefill),
            rate(prediction.decode),
            rate(prediction.load),
            format_size(prediction.placement.vram()),
            format_size(prediction.placement.ram()),
            prediction.ubatch
        )?;
    }
    writeln!(text)
}

fn tail(text: &mut String, plan: &Plan) -> std::fmt::Result {
    let Some(winner) = plan.winner() else {
        let objection = plan.objection();
        writeln!(
            text,
            "Not possible: {objection}. Allow more with --vram and --ram, or choose a smaller --ctx, --parallel or --kv."
        )?;
        return missing(text, plan);
    };
    writeln!(text, "{}", verdict(plan, winner))?;
    if let (Some(load), Some(read)) = (winner.load, winner.read) {
        writeln!(text, "Loading takes {load:.1} s from the page cache, and {read:.1} s more from the disk.")?;
    }
    if !winner.placement.cpu_layers.is_empty() {
        let layers: Vec<_> = winner.placement.cpu_layers.iter().map(u64::to_string).collect();
        let what = if plan.experts.0 > 0 { "experts" } else { "the feed-forward networks" };
        writeln!(text, "The CPU computes {what} of {} layers: {}.", layers.len(), layers.join(", "))?;
    }
    if let Some(slots) = &winner.placement.expert_slots {
        writeln!(text, "experts: {}, by {}.", slots.text(), slots.hit_rate_from)?;
    }
    writeln!(text)?;
    for (tier, parts) in tiers(plan, winner) {
        let parts: Vec<_> = parts.iter().filter(|(_, bytes)| *bytes > 0).collect();
        let total = parts.iter().map(|(_, bytes)| bytes).sum();
        let words: Vec<_> = parts.iter().map(|(what, bytes)| format!("{what} {}", format_size(*bytes))).collect();
        if !words.is_empty() {
            writeln!(text, "{tier:<8} {}: {}", format_size(total), words.join(", "))?;
        }
    }
    // Who has placed by hand has the command.
    if plan.plan_options.server.placement.is_some() {
        return missing(text, plan);
    }
    let (serve, modelfile) = commands::ollama(plan, winner);
    writeln!(text, "\nllama-server:\n  {}", commands::llama_server(plan, winner))?;
    writeln!(text, "Ollama, with these lines in the model's Modelfile:\n  {serve}\n  {}", modelfile.join("\n  "))?;
    missing(text, plan)
}

fn missing(text: &mut String, plan: &Plan) -> std::fmt::Result {
    writeln!(text, "\n{ESTIMATED}")?;
    for line in &plan.figures.missing {
        writeln!(text, "Missing: {line}")?;
    }
    for line in oddities(&plan.figures) {
        writeln!(text, "Note: {line}")?;
    }
    Ok(())
}

/// Who wins and by how much.
fn verdict(plan: &Plan, winner: &Prediction) -> String {
    let name = commands::name(plan, winner);
    if plan.plan_options.server.placement.is_some() {
        return match winner.request.filter(|_| !plan.is_only_named()) {
            Some(own) => format!("{name}: {own:.1} s for a prompt of {PROMPT} and an answer of {ANSWER} tokens."),
            None => format!("{name}: nothing is predicted."),
        };
    }
    // Blind is what becomes of by tensor where it has to; nobody can choose between the two.
    let is_other = |other: &&Prediction| {
        other.strategy != winner.strategy && !(winner.strategy.is_extend() && other.strategy.is_extend())
    };
    let others = plan.predictions.iter().filter(|other| other.is_possible()).filter(is_other);
    let next = others.filter_map(|other| Some((other, other.request?))).min_by(|one, other| one.1.total_cmp(&other.1));
    if let (Some(strategy), Some(own)) = (plan.plan_options.strategy, winner.request) {
        let than = match next {
            Some((other, seconds)) => {
                format!("; {} takes {:.1} times as long", other.strategy.row().name, seconds / own)
            }
            None => String::new(),
        };
        return format!(
            "Asked for: {}, {own:.1} s for a prompt of {PROMPT} and an answer of {ANSWER} tokens{than}.",
            strategy.row().name
        );
    }
    if let Some((passed, seconds)) = plan.passed_over().and_then(|passed| Some((passed, passed.request?)))
        && let Some(own) = winner.request
    {
        return format!(
            "Chosen: {name}, {own:.1} s for a prompt of {PROMPT} and an answer of {ANSWER} tokens; {} is {:.0}% faster, but needs the CPU, and slows down when that has other work.",
            passed.strategy.row().name,
            (own / seconds - 1.0) * 100.0
        );
    }
    match (winner.request, next) {
        (None, _) => format!("Chosen: {name}. No speed can be predicted without the missing figures."),
        (Some(own), Some((other, seconds))) => format!(
            "Fastest: {name}, {own:.1} s for a prompt of {PROMPT} and an answer of {ANSWER} tokens; {} takes {:.1} times as long.",
            other.strategy.row().name,
            seconds / own
        ),
        (Some(own), None) => {
            format!("Fastest: {name}, {own:.1} s for a prompt of {PROMPT} and an answer of {ANSWER} tokens.")
        }
    }
}

/// What lies where.
fn tiers(plan: &Plan, prediction: &Prediction) -> [(&'static str, Vec<(&'static str, u64)>); 2] {
    let placement = &prediction.placement;
    let embedding = plan.classes.iter().find(|(class, _)| *class == Class::Embedding).map_or(0, |(_, bytes)| *bytes);
    [
        (
            "VRAM",
            vec![
                ("weights", placement.inside.dense.bytes),
                ("experts", placement.inside.experts.bytes),
                ("copies of experts", placement.expert_slots.map_or(0, |slots| slots.bytes)),
                ("KV cache", placement.kv_inside),
                ("scratch", placement.scratch),
                ("pools", placement.pools),
                ("ring", placement.ring),
            ],
        ),
        (
            "RAM",
            vec![
                ("weights", placement.linked().dense.bytes),
                ("experts", placement.linked().experts.bytes),
                ("for the CPU", placement.cpu.bytes()),
                ("KV cache", placement.kv_outside),
                ("embedding", embedding),
            ],
        ),
    ]
}

/// The same for programs.
pub fn json(plan: &Plan) -> Value {
    let winner = plan.winner();
    let commands = winner.map(|winner| {
        let (serve, modelfile) = commands::ollama(plan, winner);
        let environment: serde_json::Map<_, _> =
            plan.environment().into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        json!({
            "llama_server": commands::llama_server(plan, winner),
            "llama_server_environment": environment,
            "ollama": serve,
            "modelfile": modelfile,
        })
    });
    let tiers = winner.map(|winner| {
        let tier = |parts: &[(&'static str, u64)]| -> Value {
            parts
                .iter()
                .map(|(what, bytes)| ((*what).to_owned(), Value::from(*bytes)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let [vram, ram] = tiers(plan, winner);
        json!({ "vram": tier(&vram.1), "ram": tier(&ram.1) })
    });
    let classes: serde_json::Map<_, _> =
        plan.classes.iter().map(|(class, bytes)| (class.name().to_owned(), Value::from(*bytes))).collect();
    json!({
        "model": {
            "path": plan.path,
            "name": plan.name,
            "architecture": plan.architecture,
            "bytes": plan.file_bytes,
            "layers": plan.layers,
            "experts": plan.experts.0,
            "experts_used": plan.experts.1,
            "trained_context": plan.trained_context,
            "kv_bytes_per_token": plan.kv_per_token,
            "kv_is_upper_bound": plan.is_upper_bound,
            "class_bytes": classes,
        },
        "machine": plan.figures,
        "rates_used": plan.machine,
        "setting": {
            "vram": plan.setting.vram,
            "ram": plan.setting.ram,
            "context": plan.setting.context.tokens,
            "parallel": plan.setting.context.slots,
            "unified": plan.setting.context.unified,
            "kv_in_ram": plan.setting.kv_in_ram,
            "kv": plan.setting.context.kv.k.name,
            "ring": plan.setting.ring,
        },
        "asked": plan.plan_options.strategy,
        "predictions": plan.predictions,
        "winner": winner.map(|winner| winner.strategy),
        "passed_over_for_cpu": plan.passed_over().map(|passed| passed.strategy),
        "tiers": tiers,
        "commands": commands,
        "estimated": ESTIMATED,
    })
}
