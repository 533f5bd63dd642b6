//! `greenboost module` on a made-up machine, with programs that write down how they were called and do in its tree what
//! the real ones would.

use greenboost_launcher::module::{
    InstallOptions, Installed, Plan, Problem, SecureBoot, Status, System, install, remove,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const KERNEL: &str = "6.1.0-9-amd64";
const CONFIG: &str = "etc/modprobe.d/greenboost.conf";

const DKMS: &str = r#"
state=$ROOT/var/lib/dkms/greenboost modules=$ROOT/lib/modules/6.1.0-9-amd64/updates
case $1 in
status) if [ -d $state ]; then echo "greenboost/0.1.0, 6.1.0-9-amd64, x86_64: installed"; fi ;;
add) [ -f $ROOT/usr/src/greenboost-0.1.0/dkms.conf ] && mkdir -p $state/0.1.0/build ;;
build) if [ -e $FAIL/build ]; then
        echo "map.c:1: error: planted" > $state/0.1.0/build/make.log
        echo "Error! Bad return status" >&2
        exit 10
    fi ;;
install) mkdir -p $modules && echo module > $modules/greenboost.ko ;;
remove) [ ! -e $FAIL/remove ] && rm -rf $state $modules ;;
esac
"#;

const MODPROBE: &str = r#"
loaded=$ROOT/sys/module/greenboost
case "$*" in
greenboost) if [ -e $FAIL/modprobe ]; then echo "Key was rejected by service" >&2; exit 1; fi; mkdir $loaded ;;
"-r greenboost") if [ -e $FAIL/unload ]; then echo "Module greenboost is in use." >&2; exit 1; fi; rmdir $loaded ;;
*) exit 2 ;;
esac
"#;

struct Machine {
    folder: TempDir,
    system: System,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().join("root");
        for name in ["etc/modprobe.d", "etc/udev/rules.d", "usr/src", "var/lib/dkms", "sys/module", "proc/sys/kernel"] {
            fs::create_dir_all(root.join(name)).expect("folder");
        }
        for name in ["bin", "fail"] {
            fs::create_dir(folder.path().join(name)).expect("folder");
        }
        let system = System {
            root,
            path: format!("{}:/usr/bin:/bin", folder.path().join("bin").display()).into(),
            is_root: true,
            own_program: folder.path().join("nowhere/greenboost"),
        };
        let machine = Self { folder, system };
        machine.write("proc/sys/kernel/osrelease", &format!("{KERNEL}\n"));
        machine.write("etc/os-release", "ID=debian\n");
        machine.write(&format!("lib/modules/{KERNEL}/build/Makefile"), "");
        for (name, body) in [("dkms", DKMS), ("modprobe", MODPROBE), ("udevadm", "")] {
            machine.program(name, body);
        }
        machine
    }

    fn program(&self, name: &str, body: &str) {
        let path = self.folder.path().join("bin").join(name);
        let folder = self.folder.path().display();
        let text =
            format!("#!/bin/sh\nROOT={folder}/root FAIL={folder}/fail\necho {name} \"$@\" >> {folder}/log\n{body}\n");
        // Written by another process: a fork of another test would hold the file open, and it could not be started.
        let mut written = Command::new("sh");
        written.args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &text]).arg(&path);
        assert!(written.status().expect("sh").success());
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.system.root.join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(path, text).expect("write");
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.system.root.join(path)).unwrap_or_default()
    }

    fn fails(&self, what: &str, fails: bool) {
        let path = self.folder.path().join("fail").join(what);
        if fails { fs::write(path, "").expect("write") } else { fs::remove_file(path).expect("remove") }
    }

    /// How programs were called that change something, in order.
    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| !line.starts_with("dkms status")).map(str::to_owned).collect()
    }

    /// Every file and folder.
    fn tree(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut tree = BTreeMap::new();
        walk(&self.system.root, &mut tree);
        tree
    }

    fn install(&self, options: &InstallOptions) -> Result<Installed, Problem> {
        install(&self.system, &Plan::make(&self.system, options)?, &mut |_| {})
    }

    fn remove(&self) -> Result<Vec<String>, Problem> {
        remove(&self.system, false, &mut |_| {})
    }

    /// Expects a refusal in these words, and nothing changed by it.
    #[track_caller]
    fn refuses(&self, options: &InstallOptions, parts: &[&str]) {
        let (tree, log) = (self.tree(), self.log());
        let problem = self.install(options).expect_err("a refusal").to_string();
        for part in parts {
            assert!(problem.contains(part), "{part:?} is not in: {problem}");
        }
        assert!(self.tree() == tree, "something was changed");
        assert_eq!(self.log(), log, "something was run");
    }
}

fn walk(folder: &Path, tree: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
    for entry in fs::read_dir(folder).expect("folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, tree);
            tree.insert(path, None);
        } else {
            let content = fs::read(&path).expect("file");
            tree.insert(path, Some(content));
        }
    }
}

/// With the source of this tree.
fn options() -> InstallOptions {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kmod");
    InstallOptions { source: Some(source), ..InstallOptions::default() }
}

#[test]
fn what_is_installed_and_removed_leaves_the_machine_as_it_was() {
    let machine = Machine::new();
    let before = machine.tree();
    let options = InstallOptions { reserve: Some(16 << 30), limit: Some(48 << 30), at_boot: true, ..options() };
    assert_eq!(machine.install(&options).expect("installed"), Installed::Loaded);
    assert!(machine.text(CONFIG).ends_with("\noptions greenboost reserve_mb=16384 pool_mb=49152\n"));
    assert!(machine.text("etc/udev/rules.d/60-greenboost.rules").contains("GROUP=\"render\""));
    assert_eq!(machine.text("etc/modules-load.d/greenboost.conf"), "greenboost\n");
    assert!(machine.text("usr/src/greenboost-0.1.0/include/uapi/greenboost.h").contains("GB_IOC_ALLOC"));
    let status = Status::read(&machine.system);
    assert!(status.loaded && status.installed_version.as_deref() == Some("0.1.0") && status.advice.is_empty());
    assert_eq!(status.options, ["options greenboost reserve_mb=16384 pool_mb=49152"]);
    let wanted = [
        "dkms add -m greenboost -v 0.1.0",
        "dkms build -m greenboost -v 0.1.0 -k 6.1.0-9-amd64",
        "dkms install -m greenboost -v 0.1.0 -k 6.1.0-9-amd64",
        "udevadm control --reload",
        "modprobe greenboost",
    ];
    assert_eq!(machine.log(), wanted);

    assert_eq!(machine.remove().expect("removed"), Vec::<String>::new());
    let undone = ["modprobe -r greenboost", "dkms remove -m greenboost -v 0.1.0 --all", "udevadm control --reload"];
    assert_eq!(machine.log()[wanted.len()..], undone);
    let after = machine.tree();
    let differ = before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path));
    assert_eq!(differ.collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

#[test]
fn a_build_that_fails_is_undone_and_the_compilers_words_are_kept() {
    let machine = Machine::new();
    let before = machine.tree();
    machine.fails("build", true);
    let problem = machine.install(&options()).expect_err("the build fails").to_string();
    for part in ["`dkms build", "Bad return status", "map.c:1: error: planted", "was undone"] {
        assert!(problem.contains(part), "{part:?} is not in: {problem}");
    }
    assert!(machine.tree() == before);
    assert!(!machine.log().iter().any(|line| line.starts_with("modprobe")));
}

#[test]
fn a_module_that_cannot_be_loaded_is_undone() {
    let machine = Machine::new();
    let before = machine.tree();
    machine.fails("modprobe", true);
    let problem = machine.install(&options()).expect_err("not loaded").to_string();
    assert!(problem.contains("`modprobe greenboost` failed") && problem.contains("Key was rejected"), "{problem}");
    assert!(machine.tree() == before);
}

#[test]
fn under_secure_boot_it_stays_installed_and_enrolment_is_explained() {
    let machine = Machine::new();
    let variable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    machine.write(variable, "\u{6}\0\0\0\0");
    assert_eq!(SecureBoot::of(&machine.system), SecureBoot::Off);
    machine.write(variable, "\u{6}\0\0\0\u{1}");
    assert_eq!(SecureBoot::of(&machine.system), SecureBoot::On);
    machine.fails("modprobe", true);
    machine.write("var/lib/dkms/mok.pub", "key");
    machine.program("modinfo", "echo PKCS#7");
    let Ok(Installed::NotLoaded(why)) = machine.install(&options()) else { panic!("installed, not loaded") };
    assert!(why.contains("mokutil --import /var/lib/dkms/mok.pub") && why.contains("Enroll MOK"), "{why}");
    let status = Status::read(&machine.system);
    assert!(!status.loaded && status.advice.contains("mokutil --import"), "{status:?}");
    machine.remove().expect("removed");
}

#[test]
fn a_module_that_nothing_has_signed_is_not_said_to_be_signed() {
    let machine = Machine::new();
    machine.write("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\u{6}\0\0\0\u{1}");
    machine.fails("modprobe", true);
    // As modinfo answers of a module without a signature.
    machine.program("modinfo", "echo");
    let Ok(Installed::NotLoaded(why)) = machine.install(&options()) else { panic!("installed, not loaded") };
    assert!(why.contains("the module is not signed") && why.contains("dkms install --force"), "{why}");
    assert!(!why.contains("mokutil") && !why.contains("has signed"), "{why}");
    machine.remove().expect("removed");
}

#[test]
fn where_the_firmware_cannot_be_read_mokutil_is_asked() {
    let machine = Machine::new();
    assert_eq!(SecureBoot::of(&machine.system), SecureBoot::Off, "no EFI");
    machine.write("sys/firmware/efi/x", "");
    machine.program("mokutil", "echo SecureBoot enabled");
    assert_eq!(SecureBoot::of(&machine.system), SecureBoot::On);
    machine.program("mokutil", "exit 1");
    assert_eq!(SecureBoot::of(&machine.system), SecureBoot::Unknown);
}

#[test]
fn options_a_person_has_written_are_never_overwritten_or_deleted() {
    let machine = Machine::new();
    machine.write(CONFIG, "options greenboost reserve_mb=7\n");
    let before = machine.tree();
    let line = "options greenboost reserve_mb=16384";
    machine.refuses(&InstallOptions { reserve: Some(16 << 30), ..options() }, &["is not overwritten", line]);
    let plan = Plan::make(&machine.system, &options()).expect("a plan");
    assert!(plan.notes.iter().any(|note| note.contains("stays as it is")), "{:?}", plan.notes);
    machine.install(&options()).expect("installed");
    machine.remove().expect("removed");
    assert!(machine.tree() == before);
    // Having the line already is having what was asked for.
    machine.install(&InstallOptions { reserve: Some(7 << 20), ..options() }).expect("installed");
}

#[test]
fn a_file_edited_after_installing_is_kept_and_named() {
    let machine = Machine::new();
    machine.install(&options()).expect("installed");
    machine.write(CONFIG, "options greenboost reserve_mb=7\n");
    machine.write("usr/src/greenboost-0.1.0/notes", "mine");
    assert_eq!(Status::read(&machine.system).changed_files, ["/etc/modprobe.d/greenboost.conf"]);
    assert_eq!(machine.remove().expect("removed"), ["/etc/modprobe.d/greenboost.conf"]);
    assert_eq!(machine.text(CONFIG), "options greenboost reserve_mb=7\n");
    assert_eq!(machine.text("usr/src/greenboost-0.1.0/notes"), "mine");
    assert!(!machine.system.root.join("usr/src/greenboost-0.1.0/dkms.conf").exists());
    assert!(!machine.system.root.join("var/lib/greenboost").exists());
}

#[test]
fn what_is_missing_is_named_by_its_package_before_anything_is_changed() {
    let machine = Machine::new();
    fs::remove_file(machine.folder.path().join("bin/dkms")).expect("remove");
    // The machine that runs the tests may have one.
    let system = System { path: machine.folder.path().join("bin").into(), ..machine.system.clone() };
    fs::remove_dir_all(system.root.join("lib")).expect("remove");
    let before = machine.tree();
    let problem = Plan::make(&system, &options()).expect_err("no dkms").to_string();
    for part in ["nothing was changed", "dkms", "sudo apt install dkms linux-headers-6.1.0-9-amd64"] {
        assert!(problem.contains(part), "{part:?} is not in: {problem}");
    }
    assert!(machine.tree() == before && machine.log().is_empty());
    let problem = Plan::make(&machine.system, &InstallOptions::default()).expect_err("no source").to_string();
    assert!(problem.contains("share/greenboost/kmod") && problem.contains("--source"), "{problem}");
}

#[test]
fn another_user_than_root_is_told_so_before_anything_else() {
    let mut machine = Machine::new();
    machine.system.is_root = false;
    machine.refuses(&InstallOptions::default(), &["needs root", "sudo"]);
    assert!(matches!(machine.remove(), Err(Problem::NotRoot)));
    let options = InstallOptions { dry_run: true, ..options() };
    let lines = Plan::make(&machine.system, &options).expect("a plan").lines().join("\n");
    for part in
        ["files from", "/usr/src/greenboost-0.1.0", "dkms build", "write /etc/modprobe.d", "modprobe greenboost"]
    {
        assert!(lines.contains(part), "{part:?} is not in: {lines}");
    }
    assert!(machine.log().is_empty());
}

#[test]
fn what_others_have_installed_is_left_alone() {
    let machine = Machine::new();
    machine.write("usr/src/greenboost-0.1.0/dkms.conf", "theirs");
    machine.refuses(&options(), &["/usr/src/greenboost-0.1.0 is there", "not made by this command"]);
    machine.write("var/lib/dpkg/info/greenboost-dkms.list", "");
    machine.refuses(&options(), &["the package greenboost-dkms", "apt remove greenboost-dkms"]);
    let problem = machine.remove().expect_err("nothing of ours").to_string();
    assert!(problem.contains("apt purge greenboost-dkms"), "{problem}");
    fs::remove_dir_all(machine.system.root.join("usr/src/greenboost-0.1.0")).expect("remove");
    fs::create_dir(machine.system.root.join("var/lib/dkms/greenboost")).expect("folder");
    machine.refuses(&options(), &["DKMS has the module: greenboost/0.1.0"]);
}

#[test]
fn installing_twice_and_removing_twice_are_refused() {
    let machine = Machine::new();
    machine.install(&options()).expect("installed");
    machine.refuses(&options(), &["version 0.1.0 is installed already", "greenboost module remove"]);
    machine.remove().expect("removed");
    assert!(matches!(machine.remove(), Err(Problem::NotInstalled { .. })));
}

#[test]
fn a_module_in_use_is_not_half_removed() {
    let machine = Machine::new();
    machine.install(&options()).expect("installed");
    let installed = machine.tree();
    machine.fails("unload", true);
    let problem = machine.remove().expect_err("in use").to_string();
    assert!(problem.contains("in use") && problem.contains("clients"), "{problem}");
    assert!(machine.tree() == installed);
    machine.fails("unload", false);
    machine.remove().expect("removed");
}

#[test]
fn what_undoing_could_not_undo_is_undone_by_remove() {
    let machine = Machine::new();
    let before = machine.tree();
    machine.fails("build", true);
    machine.fails("remove", true);
    let problem = machine.install(&options()).expect_err("the build fails").to_string();
    assert!(problem.contains("Undoing what had been done before failed as well"), "{problem}");
    machine.refuses(&options(), &["begun to be installed and not finished"]);
    machine.fails("remove", false);
    machine.remove().expect("removed");
    assert!(machine.tree() == before);
}

#[test]
fn for_another_kernel_nothing_is_loaded() {
    let machine = Machine::new();
    let options = InstallOptions { kernel: Some("6.12".to_owned()), ..options() };
    machine.refuses(&options, &["linux-headers-6.12"]);
    machine.write("lib/modules/6.12/build/Makefile", "");
    assert!(matches!(machine.install(&options).expect("installed"), Installed::NotLoaded(why) if why.contains("6.12")));
    assert!(machine.log().contains(&"dkms build -m greenboost -v 0.1.0 -k 6.12".to_owned()));
    assert!(!machine.log().contains(&"modprobe greenboost".to_owned()));
}

#[test]
fn a_size_that_the_module_cannot_have_is_refused() {
    let machine = Machine::new();
    machine.refuses(&InstallOptions { reserve: Some(16), ..options() }, &["too little", "16GiB"]);
}

#[test]
fn the_program_shows_the_status_of_whatever_machine_this_is() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_greenboost")).args(["module", "status", "--json"]).output().expect("run");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success() && json["loaded"].is_boolean() && json["secure_boot"].is_string(), "{json}");
}

/// Who is told to join a group must be let in by it.
#[test]
fn the_rule_the_docs_and_the_advice_name_the_same_group() {
    let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path);
    let rule = read("../kmod/install/60-greenboost.rules");
    let group = rule.split("GROUP=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a group");
    assert!(read("../docs/kernel-module.md").contains(&format!("lets the group `{group}` open")), "{group}");
    let device = PathBuf::from(greenboost_kmod::Device::PATH);
    let denied =
        greenboost_launcher::pool::Problem::Device { path: device, source: greenboost_kmod::Error::Denied }.to_string();
    assert!(denied.contains(&format!("(usually {group}): sudo usermod -aG {group} ")), "{denied}");
}
