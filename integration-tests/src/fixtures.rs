//! The C fixtures: what each is built from, and the building, which is skipped for what has not changed.

use anyhow::{Context, Result, bail};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// A file to compile.
struct Target {
    /// The file; programs have the name they are run by.
    output: &'static str,
    sources: &'static [&'static str],
    flags: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Program,
    /// A shared library that exports only what says so.
    Library,
    /// An object in a static library.
    Archive,
}
use Kind::{Archive, Library, Program};

const fn target(
    kind: Kind,
    output: &'static str,
    sources: &'static [&'static str],
    flags: &'static [&'static str],
) -> Target {
    Target { output, sources, flags, kind }
}

/// Links against the stub driver, so that libcuda.so.1 becomes a needed library.
const DRIVER: &str = "@stub/libcuda.so.1";

/// As most libraries are built: every function can be called, and interposed, from outside.
const VISIBLE: &str = "-fvisibility=default";

/// Libraries are found beside the program.
const BESIDE: &str = "-Wl,-rpath,$ORIGIN";

/// All fixtures. A stage needs only what earlier stages made.
const STAGES: &[&[Target]] = &[
    &[
        target(Library, "stub/libcuda.so.1", &["stub.c"], &[VISIBLE, "-Wl,-soname,libcuda.so.1"]),
        target(Archive, "libmini_cudart.a", &["mini_cudart.c"], &[]),
        target(Library, "libwrapper.so", &["wrapper.c"], &[]),
        target(Library, "libearly-dlsym.so", &["early.c"], &["-DEARLY_DLSYM", "-Wl,-soname,libearly-dlsym.so"]),
        target(Library, "libplugin-runtime.so", &["plugin.c"], &["-DPLUGIN_RUNTIME"]),
        target(Library, "libggml-like.so", &["ggml_base.c"], &[VISIBLE, "-Wl,-z,lazy,-soname,libggml-like.so"]),
        target(Library, "libggml-now.so", &["ggml_base.c"], &[VISIBLE, "-Wl,-z,relro,-z,now,-soname,libggml-now.so"]),
        target(
            Library,
            "libggml-second.so",
            &["ggml_base.c"],
            &[VISIBLE, "-DLIBRARY=2", "-Wl,-z,lazy,-soname,libggml-second.so"],
        ),
        target(
            Library,
            "libggml-second-now.so",
            &["ggml_base.c"],
            &[VISIBLE, "-DLIBRARY=2", "-Wl,-z,now,-soname,libggml-second-now.so"],
        ),
        target(
            Library,
            "libggml-bare.so",
            &["ggml_base.c"],
            &[VISIBLE, "-DWITHOUT_NBYTES", "-Wl,-soname,libggml-bare.so"],
        ),
        target(
            Library,
            "libggml-sizes.so",
            &["ggml_base.c"],
            &[VISIBLE, "-DHIDDEN_SIZES", "-Wl,-soname,libggml-sizes.so"],
        ),
        target(Program, "two-ggmls", &["two_ggmls.c"], &[BESIDE]),
        target(Program, "dlsym", &["lookup.c"], &["-DLOOKUP=DLSYM"]),
        target(Program, "dlvsym", &["lookup.c"], &["-DLOOKUP=DLVSYM"]),
        target(Program, "libc-dlsym", &["lookup.c"], &["-DLOOKUP=LIBC_DLSYM"]),
        target(Program, "getproc", &["getproc.c"], &[]),
        target(Program, "plugin-host", &["plugin_host.c"], &[]),
        target(Program, "forks", &["forks.c"], &[]),
        target(Program, "threads", &["threads.c"], &["-pthread"]),
        target(Program, "untouched", &["untouched.c"], &[]),
        target(Program, "variables", &["variables.c"], &[]),
        target(Program, "copies", &["copies.c"], &[]),
        target(Program, "queries", &["queries.c"], &[]),
        target(Program, "uploads", &["uploads.c"], &[]),
        target(Program, "waits", &["waits.c"], &["-pthread"]),
        target(Program, "pressure", &["pressure.c"], &[]),
        target(Program, "vmm-pool", &["vmm_pool.c"], &[]),
        target(Program, "async-alloc", &["async_alloc.c"], &[]),
        target(Program, "freed", &["freed.c"], &[]),
        target(Program, "handles", &["handles.c"], &[]),
        target(Program, "other-device", &["other_device.c"], &[]),
        target(Program, "steps", &["steps.c"], &[]),
        target(Program, "devices", &["devices.c"], &[]),
        target(Program, "ballast", &["ballast.c"], &[]),
        target(Program, "pitch", &["pitch.c"], &[]),
        target(Program, "launches", &["launches.c"], &["-pthread"]),
        target(Program, "captures", &["captures.c"], &["-pthread"]),
        target(Program, "contexts", &["contexts.c"], &[]),
        target(Program, "full", &["full.c"], &[]),
        target(Program, "llama-real", &["llama_real.c"], &[]),
        target(Program, "llama-cache", &["llama_cache.c"], &[]),
        target(Program, "llama-experts", &["llama_experts.c"], &[]),
        target(Program, "lookups", &["lookups.c"], &[]),
        target(Program, "mappings", &["mappings.c"], &[]),
    ],
    &[
        target(Program, "direct-lazy", &["direct.c"], &["-Wl,-z,lazy", DRIVER]),
        target(Program, "direct-now", &["direct.c"], &["-Wl,-z,relro,-z,now", DRIVER]),
        target(Program, "direct-noplt", &["direct.c"], &["-fno-plt", "-Wl,-z,relro,-z,now", DRIVER]),
        target(Program, "direct-table", &["direct_table.c"], &[DRIVER]),
        target(Program, "rtld-default", &["lookup.c"], &["-DLOOKUP=DEFAULT", "-Wl,--no-as-needed", DRIVER]),
        target(Program, "rtld-next", &["lookup.c"], &["-DLOOKUP=NEXT", "-Wl,--no-as-needed", DRIVER]),
        target(Program, "static-runtime", &["static_runtime.c"], &["@libmini_cudart.a"]),
        target(Program, "wrapped", &["wrapped.c"], &[DRIVER]),
        target(Program, "llama-like", &["llama_like.c"], &["-Wl,-z,lazy", BESIDE, "@libggml-like.so"]),
        target(Program, "both", &["both.c"], &[BESIDE, "@libggml-like.so"]),
        target(Program, "choices", &["choices.c"], &[BESIDE, "@libggml-like.so"]),
        target(Program, "stream-like", &["stream_like.c"], &[BESIDE, "@libggml-like.so"]),
        target(Program, "stream-orders", &["stream_orders.c"], &[BESIDE, "@libggml-like.so"]),
        target(Program, "stream-spoiled", &["stream_spoiled.c"], &["-pthread", BESIDE, "@libggml-like.so"]),
        target(Program, "stream-elsewhere", &["stream_elsewhere.c"], &[BESIDE, "@libggml-like.so"]),
        target(Program, "stream-frees", &["stream_frees.c"], &[BESIDE, "@libggml-like.so"]),
        target(Program, "stream-updates", &["stream_updates.c"], &[BESIDE, "@libggml-like.so"]),
        target(Program, "stream-writes", &["stream_writes.c"], &[BESIDE, "@libggml-like.so"]),
        target(Program, "stream-forks", &["stream_forks.c"], &["-pthread", BESIDE, "@libggml-like.so"]),
        target(Program, "experts", &["experts.c"], &[BESIDE, "@libggml-like.so"]),
        target(Program, "host-copies-like", &["host_copies_like.c"], &["-pthread", BESIDE, "@libggml-like.so"]),
        target(Program, "llama-now", &["llama_like.c"], &["-Wl,-z,relro,-z,now", BESIDE, "@libggml-now.so"]),
        target(Program, "llama-noplt", &["llama_like.c"], &["-fno-plt", BESIDE, "@libggml-like.so"]),
        target(Program, "llama-bare", &["llama_like.c"], &[BESIDE, "@libggml-bare.so"]),
        target(Program, "mapped-like", &["mapped_like.c"], &["-Wl,-z,lazy", BESIDE, "@libggml-like.so"]),
        target(Program, "mapped-now", &["mapped_like.c"], &["-Wl,-z,relro,-z,now", BESIDE, "@libggml-now.so"]),
        target(Program, "mapped-bare", &["mapped_like.c"], &[BESIDE, "@libggml-bare.so"]),
        target(Program, "mapped-sizes", &["mapped_like.c"], &[BESIDE, "@libggml-sizes.so"]),
        target(Library, "libplugin.so", &["plugin.c"], &[DRIVER]),
        target(Library, "libearly.so", &["early.c"], &["-Wl,-soname,libearly.so", DRIVER]),
        target(Program, "early-dlsym", &["early_main.c"], &[BESIDE, "@libearly-dlsym.so"]),
    ],
    &[target(Program, "early", &["early_main.c"], &[BESIDE, "-Wl,--allow-shlib-undefined", "@libearly.so"])],
];

/// The sources of the fixtures.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/c")
}

/// The kernels.
pub fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/toy.ptx")
}

/// Those for programmatic launches.
pub fn early_kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/early.ptx")
}

/// Those that have llama.cpp's names and parameters.
pub fn expert_kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/experts.ptx")
}

/// Builds every fixture into `directory`.
///
/// # Errors
/// When there is no compiler, or it refuses something; its messages are in the error.
pub fn build_all(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory.join("stub"))?;
    let inputs = inputs_digest()?;
    let workers = thread::available_parallelism().map_or(1, |n| n.get());
    for stage in STAGES {
        let queue = Mutex::new(stage.iter());
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let work = || -> Result<()> {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(target) = next else { return Ok(()) };
                    build(target, directory, inputs)?;
                }
            };
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a worker panicked"))).collect()
        });
        results.into_iter().collect::<Result<()>>()?;
    }
    Ok(())
}

/// Everything any fixture is made from: they share headers, so they are rebuilt together.
fn inputs_digest() -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut files: Vec<_> =
        fs::read_dir(sources())?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.extend([kernels(), early_kernels(), expert_kernels()]);
    files.sort();
    for file in files {
        fs::read(file)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn build(target: &Target, directory: &Path, inputs: u64) -> Result<()> {
    let output = directory.join(target.output);
    let arguments = arguments(target, directory);
    let mut hasher = DefaultHasher::new();
    (inputs, &arguments).hash(&mut hasher);
    let key = format!("{:016x}", hasher.finish());
    let key_file = directory.join(format!("{}.key", target.output));
    if output.exists() && fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        return Ok(());
    }
    // Built aside and renamed: a running test may have the old file mapped.
    let aside = directory.join(format!("{}.{}", target.output, std::process::id()));
    if target.kind == Archive {
        let object = aside.with_extension("o");
        run("cc", arguments.iter().map(String::as_str).chain(["-c", "-o", path_text(&object)?]))?;
        run("ar", ["rcs", path_text(&aside)?, path_text(&object)?].into_iter())?;
        fs::remove_file(object)?;
    } else {
        run("cc", arguments.iter().map(String::as_str).chain(["-o", path_text(&aside)?]))?;
    }
    fs::rename(&aside, &output)?;
    fs::write(key_file, key)?;
    Ok(())
}

fn arguments(target: &Target, directory: &Path) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"].map(str::to_owned).to_vec();
    arguments.push(format!("-DTOY_PTX=\"{}\"", kernels().display()));
    arguments.push(format!("-DEARLY_PTX=\"{}\"", early_kernels().display()));
    arguments.push(format!("-DEXPERTS_PTX=\"{}\"", expert_kernels().display()));
    if target.kind == Library {
        arguments.extend(["-shared", "-fPIC", "-fvisibility=hidden"].map(str::to_owned));
    }
    arguments.extend(target.sources.iter().map(|source| sources().join(source).display().to_string()));
    arguments.extend(target.flags.iter().map(|flag| match flag.strip_prefix('@') {
        Some(made) => directory.join(made).display().to_string(),
        None => (*flag).to_owned(),
    }));
    arguments
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn run<'a>(program: &str, arguments: impl Iterator<Item = &'a str>) -> Result<()> {
    let arguments: Vec<_> = arguments.collect();
    let output = Command::new(program)
        .args(&arguments)
        .output()
        .with_context(|| format!("'{program}' cannot be started (apt-get install gcc libc6-dev binutils)"))?;
    if !output.status.success() {
        bail!("{program} {}\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
