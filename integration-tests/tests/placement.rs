//! Weights by name: what is known of them, and that every granule of them is where the rules say.

use greenboost_contract::place::{self, PlaceRule, Tier};
use greenboost_contract::record::{self, Mapped};
use greenboost_contract::settings::{self, GRANULE};
use integration_tests::tier_map::{Allocation, Tensor, TierMap};
use integration_tests::{Running, World};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

const MIB: u64 = 1 << 20;

/// What a class of tensors wants, written down once more: by part of the name, the first that is in it.
type Wants = &'static [(&'static str, Tier, u8)];

/// Experts last, as the shipped rules have it.
const WANTS: Wants = &[
    ("norm", Tier::Auto, 95),
    ("gate_inp", Tier::Auto, 95),
    ("_exps", Tier::Auto, 10),
    ("attn_", Tier::Auto, 90),
    ("_shexp", Tier::Auto, 85),
    ("output.", Tier::Auto, 80),
    ("ffn_", Tier::Auto, 40),
];

/// The rules that say this.
fn rules(wants: Wants) -> String {
    let rule = |(part, tier, priority): &(&str, Tier, u8)| PlaceRule {
        tensor: part.replace('.', r"\."),
        layers: None,
        at_least: 0,
        tier: *tier,
        priority: *priority,
    };
    place::to_text(&wants.iter().map(rule).collect::<Vec<_>>())
}

/// A machine with memory to spare, where the program may take this much VRAM.
fn world(vram: &str) -> World {
    let world = World::new().vram("192MiB,192MiB").hooked().env(settings::VRAM, vram).env(settings::THRESHOLD, "2MiB");
    let map = world.file("map.json");
    world.env(settings::MAP, map)
}

fn ruled(vram: &str, wants: Wants) -> World {
    world(vram).env(settings::PLACE, rules(wants))
}

/// The `sum` lines of a run: what every byte of the model, the cache and scratch came to.
fn sums<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    lines.into_iter().filter(|line| line.starts_with("sum ")).map(str::to_owned).collect()
}

/// The sums without GreenBoost and with all the VRAM one could want.
fn expected(arguments: &[&str]) -> Vec<String> {
    let outcome = World::new().vram("512MiB,512MiB").run_with("llama-like", arguments).ok();
    let sums = sums(outcome.stdout.lines());
    assert!(sums.len() > 40, "{}", outcome.report());
    sums
}

/// A model that is being loaded, stopped after each step.
struct Loading<'a> {
    world: &'a World,
    target: Running,
    lines: Vec<String>,
    tensors: Vec<(Tensor, u64)>,
}

impl<'a> Loading<'a> {
    /// Starts a program and waits until the weights are there.
    #[track_caller]
    fn start(world: &'a World, program: &str, arguments: &[&str]) -> Self {
        let arguments: Vec<_> = arguments.iter().copied().chain(["step"]).collect();
        let mut target = world.start(program, &arguments);
        // A model that was loaded before and went is of no interest.
        let lines = target.until("loaded");
        let tensors = lines.iter().filter_map(|line| printed(line)).collect();
        Self { world, target, lines, tensors }
    }

    fn map(&self) -> TierMap {
        TierMap::read(&self.world.file("map.json"))
    }

    /// The weights as the program itself put them: it knows best.
    fn known(&self) -> Vec<Tensor> {
        let mut tensors: Vec<_> = self.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
        tensors.sort_by_key(|tensor| tensor.at);
        tensors
    }

    /// Lets it make the cache and scratch, and read everything.
    #[track_caller]
    fn compute(&mut self) {
        self.target.go_on();
        self.lines.extend(self.target.until("ready"));
    }

    fn record(&self) -> Mapped {
        record::of_process(self.target.pid()).expect("a status record")
    }

    /// Ends it, after it has freed everything. `arguments` are those it was started with.
    #[track_caller]
    fn finish(mut self, arguments: &[&str]) -> String {
        assert_eq!(sums(self.lines.iter().map(String::as_str)), expected(arguments), "{}", self.target.log());
        self.target.go_on();
        self.target.until("freed");
        let map = self.map();
        assert!(map.allocations.is_empty() && map.tensors.is_empty(), "something is left: {map:?}");
        let record = self.record();
        assert_eq!(record.tensors.load(Relaxed), 0);
        for device in &record.devices[..record.devices_used.load(Relaxed) as usize] {
            let ram: u64 = device.ram.iter().map(|bytes| bytes.load(Relaxed)).sum();
            let left = [device.vram_chunks.load(Relaxed), device.vram_mapped.load(Relaxed), ram];
            assert_eq!(left, [0; 3], "{}", self.target.log());
        }
        assert_eq!(record.ram_used.load(Relaxed), 0);
        let log = self.target.log();
        assert!(!log.contains(" ERROR "), "{log}");
        assert!(self.target.finish().success(), "{log}");
        log
    }
}

/// A line `tensor NAME ADDRESS BYTES DEVICE`.
fn printed(line: &str) -> Option<(Tensor, u64)> {
    let words: Vec<_> = line.split(' ').collect();
    let ["tensor", name, at, bytes, device] = words[..] else { return None };
    let number = |text: &str| text.parse().expect("a number");
    Some((Tensor { name: name.to_owned(), at: number(at), bytes: number(bytes) }, number(device)))
}

/// What every granule of a buffer wants: that of the tensor in it that wants VRAM most. Padding wants nothing.
fn hints(wants: Wants, tensors: &[Tensor], buffer: &Allocation) -> Vec<(Tier, u8)> {
    let mut hints = vec![(Tier::Auto, 0); buffer.granules.len()];
    let rank = |(tier, priority): (Tier, u8)| match tier {
        Tier::Ram => (0, priority),
        Tier::Auto => (1, priority),
        Tier::Vram => (2, priority),
    };
    let mut seen = vec![false; hints.len()];
    for tensor in tensors.iter().filter(|tensor| buffer.has(tensor.at)) {
        let found = wants.iter().find(|(part, _, _)| tensor.name.contains(part));
        let wish = found.map_or((Tier::Auto, 50), |(_, tier, priority)| (*tier, *priority));
        for granule in buffer.touched(tensor.at, tensor.bytes) {
            if !seen[granule] || rank(wish) > rank(hints[granule]) {
                hints[granule] = wish;
            }
            seen[granule] = true;
        }
    }
    hints
}

/// Fails unless exactly those granules of the weights are in VRAM that should be, given how many are: those that want
/// it most, and the first of equals. What must not be is not, though there were room.
#[track_caller]
fn follows(map: &TierMap, wants: Wants, tensors: &[Tensor]) -> usize {
    let mut all_in_vram = 0;
    for buffer in map.weights() {
        let (hints, in_vram) = (hints(wants, tensors, buffer), buffer.in_vram());
        assert_eq!(hints.len(), in_vram.len(), "a weight buffer that is not placed: {buffer:?}");
        let mut order: Vec<_> = (0..hints.len()).filter(|at| hints[*at].0 != Tier::Ram).collect();
        order.sort_by_key(|at| (Reverse(hints[*at].0 == Tier::Vram), Reverse(hints[*at].1), *at));
        let count = in_vram.iter().filter(|in_vram| **in_vram).count();
        let mut should = vec![false; hints.len()];
        order.into_iter().take(count).for_each(|at| should[at] = true);
        let show = |all: &[bool]| all.iter().map(|it| if *it { 'V' } else { 'r' }).collect::<String>();
        let priorities: Vec<_> = hints.iter().map(|(_, priority)| *priority).collect();
        assert_eq!(show(&in_vram), show(&should), "is, should be; priorities {priorities:?}");
        all_in_vram += count;
    }
    all_in_vram
}

/// VRAM of a device that nobody has taken.
fn unused(record: &Mapped, device: usize) -> u64 {
    let device = &record.devices[device];
    let taken = [&device.vram_chunks, &device.vram_plain, &device.vram_mapped];
    device.vram_budget.load(Relaxed) - taken.iter().map(|bytes| bytes.load(Relaxed)).sum::<u64>()
}

/// Loads a model under rules, and checks where it is with the weights loaded and with everything in use.
#[track_caller]
fn check(world: &World, program: &str, arguments: &[&str], wants: Wants) -> [usize; 2] {
    let mut loading = Loading::start(world, program, arguments);
    let (map, known) = (loading.map(), loading.known());
    assert_eq!(map.tensors, known, "{}", loading.target.log());
    let loaded = follows(&map, wants, &known);
    assert!(unused(&loading.record(), 0) < 2 * GRANULE, "VRAM is left: {}", loading.target.log());
    assert_eq!(loading.record().tensors.load(Relaxed), known.len() as u64);
    assert_eq!(loading.record().placement.get(), "by tensor");

    loading.compute();
    let map = loading.map();
    // The cache and scratch are no weights, and in VRAM to the last byte.
    assert_eq!(map.tensors, known);
    let hot: Vec<_> = map.allocations.iter().filter(|it| map.inside(it).next().is_none()).collect();
    assert_eq!(hot.len(), 2, "{map:?}");
    assert!(hot.iter().all(|it| it.in_vram().iter().all(|in_vram| *in_vram)), "{hot:?}\n{}", loading.target.log());
    let computing = follows(&map, wants, &known);
    loading.finish(arguments);
    [loaded, computing]
}

#[test]
fn placement_follows_the_rules_granule_by_granule_and_the_lowest_priority_gives_way() {
    for (seed, (model, backing, vram)) in [
        ("moe", "host-numa", "48MiB"),
        ("dense", "memfd", "40MiB"),
        ("moe", "memfd", "64MiB"),
        ("dense", "host-numa", "57MiB"),
    ]
    .into_iter()
    .enumerate()
    {
        let world = ruled(vram, WANTS).delays(seed as u64 + 1).env(settings::BACKINGS, backing);
        let [loaded, computing] = check(&world, "llama-like", &[model], WANTS);
        // Cache (6.25 MiB), scratch (5) and pool (6): 10 granules, and what the driver keeps small things in.
        assert!((9..=11).contains(&(loaded - computing)), "{model} {backing}: {loaded} granules, then {computing}");
    }
}

#[test]
fn a_larger_cache_takes_more_from_the_weights_and_stays_whole() {
    let world = ruled("48MiB", WANTS);
    let [loaded, computing] = check(&world, "llama-like", &["moe", "big-kv"], WANTS);
    assert!(loaded - computing > 15, "{loaded} granules, then {computing}");
}

#[test]
fn calls_are_seen_however_the_libraries_were_linked() {
    for program in ["llama-now", "llama-noplt"] {
        check(&ruled("48MiB", WANTS), program, &["moe"], WANTS);
    }
}

#[test]
fn the_shipped_rules_are_in_force_under_gb_launch() {
    // The program's name makes it one of llama.cpp's tools.
    for model in ["moe", "dense"] {
        let world = World::new().vram("192MiB").env(settings::THRESHOLD, "2MiB").env(settings::CHUNK, "2MiB");
        let map = world.file("map.json").display().to_string();
        // Streamed, equals would be spread over the pass.
        let world = world.launched(&["--vram", "48MiB", "--ram", "1GiB", "--stream", "off", "--map", &map]);
        check(&world, "llama-like", &[model], WANTS);
    }
}

#[test]
fn a_rule_on_the_command_line_moves_the_tensors_it_names_and_no_other() {
    const OVERRIDE: Wants = &[("blk.1.ffn_up_exps", Tier::Vram, 50), ("attn_q.", Tier::Ram, 50)];
    let with: Vec<_> = OVERRIDE.iter().chain(WANTS).copied().collect();
    let world = World::new().vram("192MiB").env(settings::THRESHOLD, "2MiB").env(settings::CHUNK, "2MiB");
    let map = world.file("map.json").display().to_string();
    let flags = ["--vram", "64MiB", "--ram", "1GiB", "--stream", "off", "--map", &map];
    let overridden: Vec<_> =
        flags.iter().copied().chain(["--place", r"blk\.1\.ffn_up_exps=vram", "--place", r"attn_q\.=ram"]).collect();
    check(&world.launched(&overridden), "llama-like", &["moe"], Vec::leak(with));
}

#[test]
fn a_model_that_fits_is_in_vram_whole_but_for_what_must_not_be() {
    const RAM: Wants = &[("_exps", Tier::Ram, 50)];
    let world = ruled("160MiB", RAM);
    let loading = Loading::start(&world, "llama-like", &["moe"]);
    let map = loading.map();
    // Interior granules, which no neighbour has a part in.
    for (tensor, _) in &loading.tensors {
        let allocation = map.allocations.iter().find(|it| it.has(tensor.at)).expect("its allocation");
        let (first, last) = allocation.touched(tensor.at, tensor.bytes).into_inner();
        let tiers = &allocation.granules[first..=last];
        let inner = tiers.iter().skip(1).take(tiers.len().saturating_sub(2));
        let experts = tensor.name.contains("_exps");
        assert!(inner.clone().all(|home| (home == "vram") != experts), "{}: {tiers:?}", tensor.name);
    }
    drop(loading);

    let world = ruled("160MiB", WANTS);
    let mut loading = Loading::start(&world, "llama-like", &["moe"]);
    loading.compute();
    assert!(loading.map().allocations.iter().all(|it| it.in_vram().iter().all(|in_vram| *in_vram)));
    assert_eq!(loading.record().devices[0].moved_out.load(Relaxed), 0);
    loading.finish(&["moe"]);
}

#[test]
fn every_device_has_rules_and_room_of_its_own() {
    let arguments = ["moe", "two-devices"];
    let world = ruled("30MiB", WANTS);
    let mut loading = Loading::start(&world, "llama-like", &arguments);
    let (map, known) = (loading.map(), loading.known());
    assert_eq!(map.tensors, known);
    let devices: BTreeMap<_, _> =
        loading.tensors.iter().map(|(tensor, device)| (tensor.name.as_str(), *device)).collect();
    assert_eq!(map.weights().len(), 2);
    for buffer in map.weights() {
        assert!(map.inside(buffer).all(|tensor| devices[tensor.name.as_str()] == buffer.device));
        assert!((24 * MIB..=30 * MIB).contains(&map.vram(buffer.device)), "{map:?}");
    }
    follows(&map, WANTS, &known);
    loading.compute();
    follows(&loading.map(), WANTS, &known);
    loading.finish(&arguments);
}

#[test]
fn a_ggml_without_an_accessor_is_placed_by_allocation_and_says_so() {
    let world = ruled("48MiB", WANTS);
    let mut loading = Loading::start(&world, "llama-bare", &["moe"]);
    let map = loading.map();
    assert!(map.tensors.is_empty());
    // VRAM first, in order of address.
    let in_vram = map.allocations[0].in_vram();
    assert!(in_vram[0] && !in_vram[in_vram.len() - 1] && in_vram.is_sorted_by_key(|in_vram| Reverse(*in_vram)));
    assert_eq!(loading.record().placement.get(), "by allocation: this ggml lacks an accessor");
    let status = world.run_outside("greenboost", &["status"]).ok();
    assert!(
        status.stdout.contains("placed  by allocation: this ggml lacks an accessor, 0 weight"),
        "{}",
        status.report()
    );
    loading.compute();
    let log = loading.finish(&["moe"]);
    assert!(log.contains("placed by allocation: this ggml lacks an accessor"), "{log}");
}

#[test]
fn status_shows_that_placement_is_by_tensor() {
    let world = ruled("48MiB", WANTS);
    let loading = Loading::start(&world, "llama-like", &["dense"]);
    let status = world.run_outside("greenboost", &["status", "--json"]).ok();
    let json = status.json();
    let all = json.as_array().expect("processes");
    let ours = all.iter().find(|it| it["pid"] == loading.target.pid()).expect("the process");
    assert_eq!((ours["placement"].as_str(), ours["tensors"].as_u64()), (Some("by tensor"), Some(38)));
}

#[test]
fn a_kernel_before_the_word_settles_by_allocation_and_the_names_come_all_the_same() {
    for backing in ["host-numa", "memfd"] {
        let arguments = ["moe", "launch-first"];
        let world = ruled("48MiB", WANTS).env(settings::BACKINGS, backing);
        let mut loading = Loading::start(&world, "llama-like", &arguments);
        let map = loading.map();
        assert_eq!(map.tensors, loading.known());
        let in_vram = map.allocations[0].in_vram();
        assert!(in_vram[0] && in_vram.is_sorted_by_key(|in_vram| Reverse(*in_vram)), "{in_vram:?}");
        loading.compute();
        loading.finish(&arguments);
    }
}

#[test]
fn a_buffer_of_which_nothing_is_said_is_placed_at_its_first_use() {
    for (seed, backing) in [(1, "host-numa"), (2, "memfd")] {
        let arguments = ["dense", "no-usage"];
        let world = ruled("40MiB", WANTS).env(settings::BACKINGS, backing).delays(seed);
        let mut loading = Loading::start(&world, "llama-like", &arguments);
        let map = loading.map();
        assert!(map.tensors.is_empty() && map.allocations[0].in_vram()[0]);
        loading.compute();
        loading.finish(&arguments);
    }
}

#[test]
fn a_buffer_that_goes_before_it_was_placed_leaves_nothing() {
    let world = ruled("48MiB", WANTS);
    check(&world, "llama-like", &["moe", "free-first"], WANTS);
}

#[test]
fn a_model_that_goes_is_forgotten_also_where_the_next_has_its_address() {
    for (backing, model) in [("host-numa", "moe"), ("memfd", "dense")] {
        let world = ruled("48MiB", WANTS).env(settings::BACKINGS, backing);
        check(&world, "llama-like", &[model, "reload"], WANTS);
    }
}

#[test]
fn weights_below_the_threshold_are_known_and_forgotten_like_others() {
    for more in [&[][..], &["reload"]] {
        let arguments: Vec<_> = ["moe", "small"].iter().chain(more).copied().collect();
        let world = ruled("64MiB", WANTS).env(settings::THRESHOLD, "48MiB");
        let mut loading = Loading::start(&world, "llama-like", &arguments);
        let map = loading.map();
        assert_eq!(map.tensors, loading.known());
        assert!(map.allocations.is_empty(), "{map:?}");
        assert_eq!(loading.record().placement.get(), "by tensor");
        loading.compute();
        loading.finish(&arguments);
    }
}

#[test]
fn odd_chunk_sizes_and_budgets_keep_to_the_rules() {
    for (chunk, vram) in [("6MiB", "47MiB"), ("64MiB", "33MiB")] {
        let world = ruled(vram, WANTS).env(settings::CHUNK, chunk);
        let loading = Loading::start(&world, "llama-like", &["moe"]);
        follows(&loading.map(), WANTS, &loading.known());
        let mut loading = loading;
        loading.compute();
        loading.finish(&["moe"]);
    }
}
