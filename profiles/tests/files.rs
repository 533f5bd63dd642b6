//! Profiles of the system and the user: overriding, inheritance, and what is said about bad files.

use greenboost_contract::kernel::{AccessMode, KernelRule};
use greenboost_contract::place::{PlaceRule, Tier};
use greenboost_contract::{PlanFor, ReportFree, Spill};
use greenboost_profiles::{Profile, Profiles, Source};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder of profiles, from file names and contents.
fn folder(files: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("write profile");
    }
    let path = folder.path().to_owned();
    (folder, path)
}

/// What is said about a folder with one bad file, without the folder's path.
fn refusal(text: &str) -> String {
    let (_keep, path) = folder(&[("foo.toml", text)]);
    let error = Profiles::load(std::slice::from_ref(&path)).expect_err(text).to_string();
    error.replace(&format!("{}/", path.display()), "")
}

fn named(profiles: &Profiles, name: &str) -> Profile {
    profiles.find_by_name(name).expect(name).clone()
}

#[test]
fn the_user_beats_the_system_and_both_beat_what_is_built_in() {
    let (_keep_system, system) = folder(&[
        ("a.toml", "name = 'ollama'\n[memory]\nspill = 'never'"),
        ("b.toml", "name = 'site'\npriority = 50\n[match]\nexecutable = '^llama-server$'"),
    ]);
    let (_keep_user, user) = folder(&[("mine.toml", "name = 'site'\npriority = 50\n[match]\nexecutable = '^x$'")]);
    let both = Profiles::load(&[system.clone(), user.clone()]).expect("valid");
    assert_eq!(named(&both, "ollama").settings.spill, Spill::Never);
    assert_eq!(named(&both, "site").source, Source::File(user.join("mine.toml")));
    assert_eq!(both.match_command(&["llama-server"], &[]).expect("match").profile.name, "llama-server");

    let only_system = Profiles::load(&[system, user.join("missing")]).expect("a missing folder is empty");
    let found = only_system.match_command(&["llama-server"], &[]).expect("match");
    assert_eq!(found.profile.name, "site");
    assert!(found.reason.contains("\"llama-server\" matches ^llama-server$"), "{}", found.reason);
}

#[test]
fn at_equal_priority_a_users_profile_is_tried_first() {
    let (_keep, user) = folder(&[("z.toml", "name = 'zzz'\npriority = 20\n[match]\nexecutable = '^ollama$'")]);
    let profiles = Profiles::load(&[user]).expect("valid");
    assert_eq!(profiles.match_command(&["ollama"], &[]).expect("match").profile.name, "zzz");
}

#[test]
fn a_file_that_replaces_a_profile_can_inherit_what_it_replaces() {
    let text = "name = 'llama-server'\ninherits = 'llama-server'\n[environment]\nLLAMA_ARG_CTX_SIZE = '32768'";
    let (_keep, user) = folder(&[("llama-server.toml", text)]);
    let profiles = Profiles::load(&[user]).expect("valid");
    let profile = named(&profiles, "llama-server");
    assert_eq!(profile.environment["LLAMA_ARG_CTX_SIZE"].value, "32768");
    assert_eq!(profile.settings.report_free, ReportFree::Extended);
    assert_eq!(profiles.match_command(&["llama-server"], &[]).expect("match").profile.name, "llama-server");
    assert!(named(&profiles, "llama-tools").environment.is_empty());
}

#[test]
fn rules_for_tensors_come_before_those_that_are_inherited() {
    let text = "name = 'mine'\ninherits = 'llama-server'\n\
                [[place]]\ntensor = 'ffn_down'\nlayers = '0-15'\nat_least = '4MiB'\ntier = 'vram'\npriority = 7\n\
                [[place]]\ntensor = 'attn'\nlayers = 3";
    let (_keep, user) = folder(&[("mine.toml", text)]);
    let profiles = Profiles::load(&[user]).expect("valid");
    let (mine, parent) = (named(&profiles, "mine"), named(&profiles, "llama-server"));
    let rule = |tensor: &str, layers, at_least, tier, priority| PlaceRule {
        tensor: tensor.into(),
        layers: Some(layers),
        at_least,
        tier,
        priority,
    };
    assert_eq!(
        mine.settings.place[..2],
        [rule("ffn_down", (0, 15), 4 << 20, Tier::Vram, 7), rule("attn", (3, 3), 0, Tier::Auto, 50)]
    );
    assert_eq!(mine.settings.place[2..], parent.settings.place);
    assert_eq!(mine.settings.kernels, parent.settings.kernels);
}

#[test]
fn a_plan_is_inherited_and_can_be_turned_off_and_what_a_user_sets_is_outright() {
    let (_keep, user) = folder(&[
        ("a.toml", "name = 'a'\ninherits = 'llama-server'\n[environment]\nLLAMA_ARG_CTX_SIZE = '32768'"),
        ("b.toml", "name = 'b'\ninherits = 'a'\nplan = 'never'"),
    ]);
    let profiles = Profiles::load(&[user]).expect("valid");
    assert_eq!((named(&profiles, "a").plan, named(&profiles, "b").plan), (PlanFor::Command, PlanFor::Never));
    assert!(!named(&profiles, "b").environment["LLAMA_ARG_CTX_SIZE"].unless_planned);
}

#[test]
fn a_profile_that_extends_another_is_used_by_name_until_it_says_what_it_is_for() {
    let (_keep, user) = folder(&[("a.toml", "name = 'tight'\ninherits = 'llama-server'\n[memory]\nspill = 'never'")]);
    let profiles = Profiles::load(&[user]).expect("valid");
    assert_eq!(named(&profiles, "tight").settings.include, named(&profiles, "llama-server").settings.include);
    assert_eq!(profiles.match_command(&["llama-server"], &[]).expect("match").profile.name, "llama-server");
}

#[test]
fn rules_for_kernels_come_before_those_that_are_inherited() {
    let text = "name = 'mine'\ninherits = 'llama-server'\n[[kernel]]\nname = 'mul_mat_vec'\nread = 'stream'";
    let (_keep, user) = folder(&[("mine.toml", text)]);
    let profiles = Profiles::load(&[user]).expect("valid");
    let (mine, parent) = (named(&profiles, "mine"), named(&profiles, "llama-server"));
    let rule =
        KernelRule { name: "mul_mat_vec".into(), tensor: String::new(), read: AccessMode::Stream, experts: None };
    assert_eq!((&mine.settings.kernels[0], &mine.settings.kernels[1..]), (&rule, parent.settings.kernels.as_slice()));
}

#[test]
fn several_patterns_become_one() {
    let text = "name = 'x'\n[processes]\ninclude = ['^a$', '^b|c$']\n[match]\narguments = '--cuda'";
    let (_keep, user) = folder(&[("x.toml", text)]);
    let profiles = Profiles::load(&[user]).expect("valid");
    assert_eq!(named(&profiles, "x").settings.include, "(?:^a$)|(?:^b|c$)");
    assert_eq!(profiles.match_command(&["any"], &["--cuda".to_owned()]).expect("match").profile.name, "x");
    assert_eq!(profiles.match_command(&["any"], &[]).expect("match").profile.name, "generic");
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let profiles = Profiles::load(&[]).expect("valid");
    let error = profiles.find_by_name("olama").expect_err("unknown").to_string();
    assert!(
        error.starts_with("there is no profile named \"olama\": known are ") && error.contains("ollama"),
        "{error}"
    );
}

#[test]
fn folders_are_the_systems_and_the_users() {
    let folders = |pairs: &[(&str, &str)]| {
        let pairs = pairs.to_vec();
        let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Profiles::folders(get).into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    let system = "/etc/greenboost/profiles";
    assert_eq!(folders(&[("HOME", "/home/u")]), [system, "/home/u/.config/greenboost/profiles"]);
    assert_eq!(folders(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]), [system, "/c/greenboost/profiles"]);
    assert_eq!(folders(&[]), [system]);
    assert_eq!(folders(&[("XDG_CONFIG_HOME", "relative")]), [system]);
}

#[test]
fn bad_files_are_refused_with_file_line_key_and_what_is_allowed() {
    const N: &str = "name = 'x'\n";
    for (text, expected) in [
        ("", "foo.toml:1: name is missing: add name = \"...\""),
        ("name = ", "foo.toml:1: this is not valid TOML: "),
        ("name = 'x'\nname = 'y'", "foo.toml:2: this is not valid TOML: duplicate key"),
        ("name = 7", "foo.toml:1: name = 7: must be text in quotes"),
        ("name = ''", "foo.toml:1: name = '': must be one line of text that is not empty"),
        (
            &format!("{N}colour = 'red'"),
            "foo.toml:2: colour is not a known key: allowed at the top of a profile are name, description, inherits, priority, match, processes, memory, report, place, kernel, plan, environment",
        ),
        (
            &format!("{N}[[kernel]]\nread = 'stream'"),
            "foo.toml:2: kernel.name is missing: give [[kernel]] a regular expression on kernel names",
        ),
        (
            &format!("{N}[[kernel]]\nname = 'gemm'"),
            "foo.toml:2: kernel.read is missing: say how it reads, \"stream\", \"in-place\" or \"never\"",
        ),
        (
            &format!("{N}[[kernel]]\nname = 'gemm'\nread = 'fast'"),
            "foo.toml:4: kernel.read = 'fast': allowed are stream, in-place, never",
        ),
        (
            &format!("{N}[[kernel]]\nname = 'gemm'\ntensor = '('\nread = 'stream'"),
            "foo.toml:4: kernel.tensor = '(': is not a regular expression: unclosed group",
        ),
        (
            &format!("{N}[[place]]\ntier = 'ram'"),
            "foo.toml:2: place.tensor is missing: give [[place]] a regular expression on tensor names",
        ),
        (
            &format!("{N}[[place]]\ntensor = 'a'\n[[place]]\ntensor = '('"),
            "foo.toml:5: place.tensor = '(': is not a regular expression: unclosed group",
        ),
        (
            &format!("{N}[[place]]\ntensor = 'a'\ntire = 'ram'"),
            "foo.toml:4: place.tire is not a known key: allowed in [place] are tensor, layers, at_least, tier, priority",
        ),
        (
            &format!("{N}[[place]]\ntensor = 'a'\ntier = 'disk'"),
            "foo.toml:4: place.tier = 'disk': allowed are vram, auto, ram",
        ),
        (
            &format!("{N}[[place]]\ntensor = 'a'\nlayers = '9-3'"),
            "foo.toml:4: place.layers = '9-3': must be a layer, such as 7, or the first and the last, such as \"0-15\"",
        ),
        (&format!("{N}[[place]]\ntensor = 'a'\nlayers = -1"), "foo.toml:4: place.layers = -1: must be a layer"),
        (
            &format!("{N}[[place]]\ntensor = 'a'\npriority = 101"),
            "foo.toml:4: place.priority = 101: must be a whole number from 0 (leaves VRAM first) to 100",
        ),
        (&format!("{N}[[place]]\ntensor = 'a'\nat_least = 'much'"), "foo.toml:4: place.at_least = 'much': "),
        (
            &format!("{N}[place]\ntensor = 'a'"),
            "foo.toml:2: place = [place]: must be tables: write [[place]] on a line",
        ),
        (
            &format!("{N}\n[memory]\nspil = 'allow'"),
            "foo.toml:4: memory.spil is not a known key: allowed in [memory] are threshold, chunk, vram_reserve, backings, spill",
        ),
        (&format!("{N}[memory]\nspill = \"maybe\""), "foo.toml:3: memory.spill = \"maybe\": allowed are allow, never"),
        (&format!("{N}[memory]\nspill = true"), "foo.toml:3: memory.spill = true: allowed are allow, never"),
        (
            &format!("{N}[memory]\nchunk = '3MiB'"),
            "foo.toml:3: memory.chunk = '3MiB': must be a multiple of 2MiB, such as 64MiB",
        ),
        (&format!("{N}[memory]\nchunk = '0'"), "foo.toml:3: memory.chunk = '0': must be a multiple of 2MiB"),
        (&format!("{N}[memory]\nthreshold = '1MiB'"), "foo.toml:3: memory.threshold = '1MiB': must be at least 2MiB"),
        (&format!("{N}[memory]\nthreshold = 'lots'"), "foo.toml:3: memory.threshold = 'lots': 'lots' is not a size: "),
        (
            &format!("{N}[memory]\nvram_reserve = 5"),
            "foo.toml:3: memory.vram_reserve = 5: must be a size in quotes, such as \"512MiB\"",
        ),
        (
            &format!("{N}[memory]\nbackings = []"),
            "foo.toml:3: memory.backings = []: must be the name of a backing in quotes, or a list of them",
        ),
        (
            &format!("{N}[memory]\nbackings = [\n  'memfd',\n  'floppy',\n]"),
            "foo.toml:5: memory.backings = 'floppy': allowed are kmod, host-numa, memfd",
        ),
        (
            &format!("{N}[memory]\nbackings = ['memfd', 'memfd']"),
            "foo.toml:3: memory.backings = 'memfd': is named twice",
        ),
        (&format!("{N}memory = 3"), "foo.toml:2: memory = 3: must be a table: write [memory] on a line of its own"),
        (&format!("{N}[report]\nfree = 'all'"), "foo.toml:3: report.free = 'all': allowed are extended, clamped, vram"),
        (&format!("{N}[report]\ntotal = 'all'"), "foo.toml:3: report.total = 'all': allowed are physical, budget"),
        (&format!("{N}priority = 'high'"), "foo.toml:2: priority = 'high': must be a whole number"),
        (&format!("{N}[match]"), "foo.toml:2: [match] is empty: give it one or more of executable, arguments"),
        (
            &format!("{N}[match]\nexe = 'x'"),
            "foo.toml:3: match.exe is not a known key: allowed in [match] are executable, arguments",
        ),
        (&format!("{N}match = 'x'"), "foo.toml:2: match = 'x': must be a table"),
        (
            &format!("{N}[match]\nexecutable = '('"),
            "foo.toml:3: match.executable = '(': is not a regular expression: unclosed group",
        ),
        (
            &format!("{N}[processes]\nexclude = [\n'^a$',\n'[']"),
            "foo.toml:5: processes.exclude = '[': is not a regular expression: unclosed character class",
        ),
        (
            &format!("{N}[processes]\ninclude = ''"),
            "foo.toml:3: processes.include = '': must be a regular expression on one line",
        ),
        (
            &format!("{N}[processes]\ninclude = 3"),
            "foo.toml:3: processes.include = 3: must be a regular expression in quotes, or a list of them",
        ),
        (&format!("{N}[environment]\nN = 3"), "foo.toml:3: environment.N = 3: must be text in quotes, false"),
        (&format!("{N}[environment]\nN = true"), "foo.toml:3: environment.N = true: must be text in quotes, false"),
        (
            &format!("{N}[environment]\nN = {{ unless = ['-c'] }}"),
            "foo.toml:3: environment.N = { unless = ['-c'] }: must be text in quotes",
        ),
        (
            &format!("{N}[environment]\nN = {{ value = 'x', if = 'y' }}"),
            "foo.toml:3: environment.N.if is not a known key: allowed in [environment.N] are value, unless",
        ),
        (&format!("{N}[environment]\n'A-B' = 'x'"), "foo.toml:3: environment.A-B = 'x': is not the name of a variable"),
        (
            &format!("{N}[environment]\nLD_PRELOAD = 'x'"),
            "foo.toml:3: environment.LD_PRELOAD = 'x': variables that begin with LD_ are set by gb-launch alone",
        ),
        (
            &format!("{N}[environment]\nGREENBOOST_VRAM = '1G'"),
            "foo.toml:3: environment.GREENBOOST_VRAM = '1G': variables that begin with GREENBOOST_ are",
        ),
        (
            &format!("{N}[environment]\nN = {{ value = 'x', unless_planned = 1 }}"),
            "foo.toml:3: environment.N.unless_planned = 1: must be true or false",
        ),
        (&format!("{N}plan = 'always'"), "foo.toml:2: plan = 'always': allowed are never, command, runners"),
        (
            &format!("{N}inherits = 'nobody'"),
            "foo.toml:2: inherits = \"nobody\": no such profile; known are generic, llama-server, ",
        ),
        (
            &format!("{N}inherits = 'x'"),
            "foo.toml:2: inherits = \"x\": no such profile; known are generic, llama-server, ",
        ),
    ] {
        let said = refusal(text);
        assert!(said.starts_with(expected), "\n  said: {said}\nwanted: {expected}");
    }
}

#[test]
fn circles_and_double_names_are_refused() {
    let (_keep, circle) = folder(&[
        ("a.toml", "name = 'a'\ninherits = 'b'"),
        ("b.toml", "name = 'b'\ninherits = 'c'"),
        ("c.toml", "name = 'c'\ninherits = 'a'"),
    ]);
    let error = Profiles::load(&[circle]).expect_err("circle").to_string();
    assert!(error.contains("a.toml:2: inherits = \"b\": leads back to \"a\" itself"), "{error}");

    let (_keep, double) = folder(&[("a.toml", "name = 'a'"), ("b.toml", "\n\nname = 'a'")]);
    let error = Profiles::load(std::slice::from_ref(&double)).expect_err("double").to_string();
    let first = double.join("a.toml");
    assert!(
        error.ends_with(&format!("b.toml:3: name = \"a\": already the name of {}; rename one", first.display())),
        "{error}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let (_keep, path) = folder(&[]);
    fs::create_dir(path.join("folder.toml")).expect("folder");
    let error = Profiles::load(std::slice::from_ref(&path)).expect_err("a folder").to_string();
    assert!(error.starts_with(&format!("cannot read profile {}/folder.toml: ", path.display())), "{error}");
    assert!(error.contains("move it away"), "{error}");

    fs::remove_dir(path.join("folder.toml")).expect("remove");
    fs::write(path.join("x.toml"), [0xff, 0xfe]).expect("write");
    let error = Profiles::load(&[path]).expect_err("not text").to_string();
    assert!(error.contains("x.toml: ") && error.contains("UTF-8"), "{error}");
}

#[test]
fn no_prefix_of_a_shipped_profile_makes_the_reader_panic() {
    let text = include_str!("../llama-server.toml");
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)).step_by(7) {
        let (_keep, path) = folder(&[("cut.toml", &text[..end])]);
        if let Err(error) = Profiles::load(&[path]) {
            assert!(error.to_string().contains("cut.toml:"), "{error}");
        }
    }
}
