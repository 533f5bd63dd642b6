//! The stage of `cargo xtask test`: what is in the packages, whether the programs run where they are installed, whether
//! the maintainer scripts undo each other, and whether DKMS builds the module from its package.

use super::content::{module, programs};
use super::deb::VERSION;
use crate::artefacts::Artefacts;
use crate::kernel::{all_headers, install};
use crate::process::{self, quietly};
use crate::test::outcome::Outcome;
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the stage, on what the stage before has built.
///
/// # Errors
/// Says what is wrong with which package.
pub fn stage() -> Result<Outcome> {
    if !can_pack() {
        return Ok(Outcome::NotRun("dpkg-deb is missing; it is part of Debian and Ubuntu".to_owned()));
    }
    let built = Artefacts::debug(&["greenboost-hook", "greenboost-launcher"])?;
    let folder = workspace::target().join("package-test");
    let _ = fs::remove_dir_all(&folder);
    let programs = programs(&built)?.pack(&folder)?;
    let module = module()?.pack(&folder)?;
    contents(&programs, &module)?;
    installed(&programs, &folder.join("root"))?;
    let unpacked = folder.join("module");
    quietly(Command::new("dpkg-deb").arg("-R").arg(&module).arg(&unpacked))?;
    scripts(&unpacked, &folder)?;
    Ok(match dkms(&unpacked, &folder)? {
        None => Outcome::Passed,
        Some(why) if std::env::var_os("CI").is_some() => anyhow::bail!("{why}"),
        Some(why) => Outcome::NotRun(format!("the packages are right; DKMS has not built the module: {why}")),
    })
}

/// Whether dpkg-deb is there; Debian and Ubuntu always have it.
fn can_pack() -> bool {
    process::exists("dpkg-deb")
}

fn contents(programs: &Path, module: &Path) -> Result<()> {
    let files = list(programs)?;
    let wanted = [
        ("-rwxr-xr-x", "./usr/bin/gb-launch"),
        ("-rwxr-xr-x", "./usr/bin/greenboost"),
        ("-rw-r--r--", "./usr/lib/greenboost/libgreenboost_hook.so"),
        ("-rw-r--r--", "./usr/share/doc/greenboost/copyright"),
    ];
    let wanted: BTreeSet<_> = wanted.iter().map(|(mode, path)| format!("{mode} root/root {path}")).collect();
    ensure!(files == wanted, "greenboost holds {files:#?}");
    ensure!(field(programs, "Depends")?.starts_with("libc6 (>= 2."), "greenboost depends on no libc");
    ensure!(field(programs, "Version")? == VERSION, "greenboost has another version");
    let files = list(module)?;
    for path in [
        format!("usr/src/greenboost-{VERSION}/dkms.conf"),
        format!("usr/src/greenboost-{VERSION}/include/uapi/greenboost.h"),
        "usr/lib/udev/rules.d/60-greenboost.rules".to_owned(),
        "etc/modprobe.d/greenboost.conf".to_owned(),
    ] {
        ensure!(files.contains(&format!("-rw-r--r-- root/root ./{path}")), "greenboost-dkms lacks {path}");
    }
    let strange = files.iter().find(|line| {
        [".rs", ".toml", ".mod.c", ".o", ".ko"].iter().any(|end| line.ends_with(end)) || line.contains("/install/")
    });
    ensure!(strange.is_none(), "greenboost-dkms holds {strange:?}");
    ensure!(field(module, "Depends")?.starts_with("dkms"), "greenboost-dkms does not depend on dkms");
    Ok(())
}

/// Mode, owner and path of each file.
fn list(package: &Path) -> Result<BTreeSet<String>> {
    let text = quietly(Command::new("dpkg-deb").arg("-c").arg(package))?;
    let lines = text.lines().filter(|line| !line.starts_with('d')).map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        format!("{} {} {}", words[0], words[1], words.last().copied().unwrap_or_default())
    });
    Ok(lines.collect())
}

fn field(package: &Path, name: &str) -> Result<String> {
    Ok(quietly(Command::new("dpkg-deb").arg("-f").arg(package).arg(name))?.trim().to_owned())
}

/// Installs the programs below a folder, runs them there, and purges them again.
fn installed(package: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("var/lib/dpkg/info"))?;
    fs::create_dir_all(root.join("var/lib/dpkg/updates"))?;
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    let dpkg = |arguments: &[&str]| {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", root.display()));
        command.args(["--force-depends", "--force-not-root", "--log=/dev/null"]).args(arguments);
        quietly(command.env("PATH", path))
    };
    dpkg(&["-i", &package.to_string_lossy()])?;
    for name in ["gb-launch", "greenboost"] {
        let said = quietly(Command::new(root.join("usr/bin").join(name)).arg("--version"))?;
        ensure!(said.trim().ends_with(VERSION), "{name} says it is '{}'", said.trim());
    }
    let mut dry = Command::new(root.join("usr/bin/gb-launch"));
    let said =
        quietly(dry.args(["--dry-run", "-v", "--profile", "generic", "--", "/bin/sh"]).env_remove("GREENBOOST_HOOK"))?;
    let hook = fs::canonicalize(root.join("usr/lib/greenboost/libgreenboost_hook.so"))?;
    ensure!(said.contains(&*hook.to_string_lossy()), "gb-launch would preload something else:\n{said}");
    dpkg(&["-P", "greenboost"])?;
    let left = [root.join("usr/bin/gb-launch"), root.join("usr/lib/greenboost"), root.join("usr/share/doc/greenboost")];
    ensure!(left.iter().all(|path| !path.exists()), "purging leaves something of {left:?}");
    Ok(())
}

/// Runs prerm with a dkms that writes down how it is called.
fn scripts(unpacked: &Path, folder: &Path) -> Result<()> {
    let control = unpacked.join("DEBIAN");
    let conffiles = fs::read_to_string(control.join("conffiles")).context("conffiles")?;
    ensure!(conffiles == "/etc/modprobe.d/greenboost.conf\n", "the options are not the administrator's: {conffiles}");
    let postinst = fs::read_to_string(control.join("postinst")).context("postinst")?;
    ensure!(
        postinst.contains(&format!("common.postinst greenboost {VERSION}")),
        "postinst does not build:\n{postinst}"
    );
    kernels(unpacked)?;
    let (bin, log) = (folder.join("bin"), folder.join("dkms.log"));
    fs::create_dir_all(&bin)?;
    let fake =
        format!("#!/bin/sh\necho \"$@\" >> {}\n[ $1 != status ] || echo greenboost/{VERSION}: added\n", log.display());
    fs::write(bin.join("dkms"), fake)?;
    fs::set_permissions(bin.join("dkms"), fs::Permissions::from_mode(0o755))?;
    loading(&control, folder)?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    for (argument, calls) in [("failed-upgrade", 0), ("upgrade", 2), ("remove", 2)] {
        fs::write(&log, "")?;
        quietly(Command::new("sh").arg(control.join("prerm")).arg(argument).env("PATH", &path))?;
        let said = fs::read_to_string(&log)?;
        ensure!(said.lines().count() == calls, "prerm {argument} calls dkms so:\n{said}");
        let removes = said.contains(&format!("remove -m greenboost -v {VERSION} --all"));
        ensure!(removes == (calls > 0), "prerm {argument} calls dkms so:\n{said}");
    }
    Ok(())
}

/// Which kernels DKMS may build the module for, as DKMS itself asks.
fn kernels(unpacked: &Path) -> Result<()> {
    let conf = unpacked.join(format!("usr/src/greenboost-{VERSION}/dkms.conf"));
    for (release, wanted) in [
        ("4.19.0-27-amd64", false),
        ("5.15.0-130-generic", false),
        ("6.0.0-6-amd64", false),
        ("6.1.0-57-cloud-amd64", true),
        ("6.12.117+deb12-cloud-amd64", true),
        ("7.3-cloud-amd64", true),
        ("10.0.1", true),
    ] {
        let asks = "kernel_source_dir=/nowhere; . \"$1\"; [[ $2 =~ $BUILD_EXCLUSIVE_KERNEL ]]";
        let mut bash = Command::new("bash");
        let built = bash.args(["-c", asks, "bash"]).arg(&conf).arg(release).status().context("bash")?.success();
        ensure!(built == wanted, "dkms.conf: {release} is built: {built}");
    }
    Ok(())
}

/// Runs postinst where modprobe succeeds and where it does not: it loads the module, or says how.
fn loading(control: &Path, folder: &Path) -> Result<()> {
    let bin = folder.join("load");
    fs::create_dir_all(&bin)?;
    // The script asks for DKMS's own by its path.
    let script = fs::read_to_string(control.join("postinst")).context("postinst")?;
    let script = script.replace("/usr/lib/dkms/common.postinst", ":").replace("/sys/module/greenboost", "/nowhere");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    for (modprobe, wanted) in [
        ("exit 0", ["the module is loaded", "/etc/modules-load.d/greenboost.conf"]),
        ("echo Key was rejected; exit 1", ["not loaded: Key was rejected", "modprobe greenboost"]),
    ] {
        for (name, body) in [("modprobe", modprobe), ("udevadm", "exit 0")] {
            fs::write(bin.join(name), format!("#!/bin/sh\n{body}\n"))?;
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))?;
        }
        let said =
            quietly(Command::new("sh").arg("-c").arg(&script).args(["postinst", "configure"]).env("PATH", &path))?;
        ensure!(
            wanted.iter().all(|part| said.contains(part)),
            "postinst, where modprobe does '{modprobe}', says {said}"
        );
    }
    Ok(())
}

/// Has DKMS build the module, in folders of its own; or says why not.
fn dkms(unpacked: &Path, folder: &Path) -> Result<Option<String>> {
    let headers = all_headers();
    let Some(headers) = headers.first() else {
        return Ok(Some("no kernel headers (package linux-headers-cloud-amd64)".to_owned()));
    };
    let dkms = PathBuf::from("/usr/sbin/dkms");
    if !dkms.is_file()
        && let Some(why) = install(&["dkms"])?
    {
        return Ok(Some(why));
    }
    let name = headers.file_name().expect("a folder").to_string_lossy();
    let release = name.trim_start_matches("linux-headers-");
    let (tree, sources) = (folder.join("dkms"), unpacked.join("usr/src"));
    fs::create_dir_all(&tree)?;
    for step in ["add", "build"] {
        let mut command = Command::new(&dkms);
        command.args([step, "-m", "greenboost", "-v", VERSION]);
        command.arg("--dkmstree").arg(&tree).arg("--sourcetree").arg(&sources);
        if step == "build" {
            command.args(["-k", release]).arg("--kernelsourcedir").arg(headers);
        }
        // Without a program to sign with, it makes no key of its own.
        quietly(command.env("sign_file", "/nonexistent").current_dir(workspace::root()))
            .with_context(|| make_log(&tree))?;
    }
    let built = tree.join(format!("greenboost/{VERSION}/{release}/x86_64/module"));
    let built = fs::read_dir(&built).with_context(|| format!("DKMS made no {}", built.display()))?.flatten();
    ensure!(
        built.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("greenboost.ko")),
        "DKMS made no greenboost.ko"
    );
    eprintln!("DKMS built the module for {release}");
    Ok(None)
}

fn make_log(tree: &Path) -> String {
    fs::read_to_string(tree.join(format!("greenboost/{VERSION}/build/make.log"))).unwrap_or_default()
}
