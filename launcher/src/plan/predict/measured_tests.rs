//! The formulas against what a real GPU measured of streaming: every such row in docs/benchmarks.

use super::tests::{h200, setting};
use super::*;
use crate::plan::test_models::{dense, facts, moe};
use serde_json::Value;

const RUNS: [&str; 2] = [
    include_str!("../../../../docs/benchmarks/gpu-2026-11-23.json"),
    include_str!("../../../../docs/benchmarks/gpu-2026-11-23-fit.json"),
];
/// What the plan promises of a real GPU.
const TOLERANCE: f64 = 0.15;

#[test]
fn streaming_is_predicted_as_it_was_measured() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for row in RUNS.iter().flat_map(|run| serde_json::from_str::<Vec<Value>>(run).expect("rows")) {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let facts = if text("model").starts_with("dense") { facts(&dense()) } else { facts(&moe()) };
        let (Some(ubatch), Some(measured)) = (row["ubatch"].as_u64(), row["value"].as_f64()) else { continue };
        let Some(vram) = row["vram_cap_bytes"].as_u64().filter(|_| text("config") == "stream") else { continue };
        let setting = Setting { vram, ring: vram / 16, ..setting(0, 2048, ubatch) };
        let all = predictions(&facts, &Rig::new(&h200()), &setting, &[ubatch], &Asked::default());
        let streaming = all.iter().find(|prediction| prediction.way == Way::ExtendStreaming).expect("a row");
        let predicted = match text("test").as_str() {
            "pp2048" => streaming.prefill,
            "tg64" => streaming.decode,
            _ => continue,
        };
        let off = predicted.expect("known") / measured - 1.0;
        seen += 1;
        let line = format!(
            "{} {} at {ubatch}: {predicted:.1?} for {measured:.1} ({:+.0}%)",
            text("model"),
            text("test"),
            off * 100.0
        );
        println!("{line}");
        if off.abs() > TOLERANCE {
            wrong.push(line);
        }
    }
    assert!(seen >= 9 && wrong.is_empty(), "{seen} rows, of which {wrong:#?}");
}
