//! The simulated GPU, and a model to plan for.

use super::Place;
use greenboost_gguf::write::Writer;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder with the simulated driver, built once.
pub fn driver() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let bin = Path::new(env!("CARGO_BIN_EXE_greenboost")).parent().expect("folder");
        // `cargo xtask test` has just built everything.
        if std::env::var_os("GB_TEST_PREBUILT").is_none() {
            let mut command = Command::new(env!("CARGO"));
            command.args(["build", "--quiet", "-p", "simgpu", "-p", "simnvml"]);
            if bin.ends_with("release") {
                command.arg("--release");
            }
            command.env("CARGO_TARGET_DIR", bin.parent().expect("target folder"));
            assert!(command.status().is_ok_and(|status| status.success()), "the simulated driver cannot be built");
        }
        let folder = super::kept_folder();
        for (from, to) in [("libcuda.so", "libcuda.so.1"), ("libnvidia_ml.so", "libnvidia-ml.so.1")] {
            std::fs::copy(bin.join(from), folder.join(to)).expect("copy of the simulated driver");
        }
        folder
    })
}

/// A mixture of experts of 1.75 GiB, most of it a hole on the disk.
pub fn model(place: &Place) -> PathBuf {
    let path = place.path("little moe.gguf");
    writer("little moe").save(&path).expect("written");
    path
}

/// The same under another name of its own.
pub fn writer(name: &str) -> Writer {
    let mut writer = Writer::default().text("general.architecture", "qwen3moe").text("general.name", name);
    for (key, value) in [
        ("block_count", 16),
        ("context_length", 32768),
        ("embedding_length", 1024),
        ("feed_forward_length", 3072),
        ("expert_feed_forward_length", 512),
        ("expert_count", 64),
        ("expert_used_count", 8),
        ("attention.head_count", 16),
        ("attention.head_count_kv", 4),
        ("attention.key_length", 128),
        ("attention.value_length", 128),
    ] {
        writer = writer.number(&format!("qwen3moe.{key}"), value);
    }
    writer = writer.tensor("token_embd.weight", &[1024, 32000], "Q8_0").tensor("output.weight", &[1024, 32000], "Q8_0");
    for layer in 0..16 {
        let name = |name: &str| format!("blk.{layer}.{name}.weight");
        writer = writer
            .tensor(&name("attn_q"), &[1024, 2048], "Q8_0")
            .tensor(&name("attn_k"), &[1024, 512], "Q8_0")
            .tensor(&name("attn_v"), &[1024, 512], "Q8_0")
            .tensor(&name("attn_output"), &[2048, 1024], "Q8_0")
            .tensor(&name("ffn_gate_inp"), &[1024, 64], "F32")
            .tensor(&name("ffn_gate_exps"), &[1024, 512, 64], "Q8_0")
            .tensor(&name("ffn_up_exps"), &[1024, 512, 64], "Q8_0")
            .tensor(&name("ffn_down_exps"), &[512, 1024, 64], "Q8_0");
    }
    writer
}

/// greenboost with a cache of its own and no GPU.
pub fn greenboost(place: &Place, arguments: &[&str]) -> Command {
    without_gpu(place, place.greenboost(arguments))
}

/// greenboost on the simulated GPU, with a link of this many GB/s.
pub fn on_gpu(place: &Place, arguments: &[&str], link: &str) -> Command {
    with_gpu(place, place.greenboost(arguments), link)
}

/// A command with a cache of its own and no GPU.
pub fn without_gpu(place: &Place, mut command: Command) -> Command {
    command.env("XDG_CACHE_HOME", place.path("cache")).env_remove("LD_LIBRARY_PATH").env_remove("OLLAMA_MODELS");
    command
}

/// A command with a cache of its own and the simulated GPU, with a link of this many GB/s.
pub fn with_gpu(place: &Place, command: Command, link: &str) -> Command {
    let mut command = without_gpu(place, command);
    command.env("LD_LIBRARY_PATH", driver()).env("SIMGPU_LINK_GBPS", link).env("SIMGPU_VRAM", "4GiB");
    command
}

/// Makes the machine one whose speed is known, GB/s of the link and of the CPU: nothing is measured, and the plan is the
/// same however busy the machine of the test is.
pub fn known_machine(place: &Place, link: f64, cpu: f64) {
    let (uuid, driver) = described(place);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let model = model.map_or(std::env::consts::ARCH, str::trim);
    let disk = std::fs::metadata(place.path("")).expect("folder").dev().to_string();
    let rates =
        json!({"vram": 500.0, "to_gpu": link, "to_host": link, "pageable": link.min(7.0), "in_place": link * 0.9});
    let row = |gpu: &str, driver: &str, rates: Value, together: Value| {
        let cpu = json!({"model": model, "reads": [[4, cpu]]});
        json!({
            "key": {"gpu": gpu, "driver": driver, "cpu": model},
            "figures": {"rates": rates, "cpu": cpu, "together": together, "disks": {(disk.clone()): 2.0}},
        })
    };
    // RAM that is fast enough for both.
    let together = json!({"threads": 4, "cpu": cpu, "link": link});
    let machines = [row(&uuid, &driver, rates, together), row("", "", Value::Null, Value::Null)];
    let file = json!({"version": 1, "machines": machines});
    std::fs::create_dir_all(place.path("cache/greenboost")).expect("folder");
    std::fs::write(place.path("cache/greenboost/machine.json"), file.to_string()).expect("written");
}

/// The simulated GPU's UUID and driver version, as figures are kept by them.
fn described(place: &Place) -> (String, String) {
    static KNOWN: OnceLock<(String, String)> = OnceLock::new();
    let ask = || {
        let output = on_gpu(place, &["measure", "--describe"], "1").output().expect("greenboost");
        let events = String::from_utf8_lossy(&output.stdout).into_owned();
        let events: Vec<Value> = events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let field = |event: &str, field: &str| {
            let found = events.iter().find(|line| line["event"] == event).expect(event);
            found[field].as_str().expect(field).to_owned()
        };
        (field("device", "uuid"), field("driver", "version"))
    };
    KNOWN.get_or_init(ask).clone()
}
