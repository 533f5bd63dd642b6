//! What is chosen: the share of CPU and link, the micro-batch, and what the user's word does to the strategy.

use super::speed::{Decode, Prefill};
use super::tests::{h200, setting};
use super::*;
use crate::plan::measure::{Cpu, Figures, Rates, Together};
use crate::plan::test_models::{dense, facts, moe};
use greenboost_contract::{ExpertCache, HostCopyPrefetch, Stream};

/// The H200's GPU, with the speeds of CPU and link in GB/s, and what the RAM gives to both at once.
fn machine(cpu: f64, link: f64, ram: f64) -> Machine {
    let mut figures = h200();
    if let Some(gpu) = &mut figures.gpu {
        gpu.rates = Rates { to_gpu: Some(link), in_place: Some(link * 0.92), ..gpu.rates };
    }
    let share = (ram / (cpu + link)).min(1.0);
    Machine::new(&Figures {
        cpu: Cpu { reads: vec![(16, cpu)], ..Cpu::default() },
        together: Some(Together { threads: 16, cpu: cpu * share, link: link * share }),
        ..figures
    })
}

fn planned(facts: &Facts, machine: &Machine, vram: u64, asked: &Asked) -> Vec<Prediction> {
    let setting = setting(vram, 2048, 512);
    predictions(facts, machine, &Setting { ring: setting.vram / 16, ..setting }, &UBATCHES, asked)
}

fn of(predictions: &[Prediction], strategy: Strategy) -> &Prediction {
    predictions.iter().find(|prediction| prediction.strategy == strategy).expect("shown")
}

fn decode(predictions: &[Prediction], strategy: Strategy) -> f64 {
    of(predictions, strategy).decode.expect("known")
}

const UNLIMITED: f64 = 1000.0;

#[test]
fn cpu_and_link_get_as_much_as_both_finish_at_the_same_time() {
    let dense = facts(&dense());
    let one = dense.layers[0].of(crate::plan::facts::Class::Ffn).bytes as f64;
    for (cpu, link) in [(79.0, 55.4), (40.0, 55.4), (79.0, 25.0), (20.0, 12.0)] {
        let machine = machine(cpu, link, UNLIMITED);
        let placement = of(&planned(&dense, &machine, 12, &Asked::default()), Strategy::Combined).placement.clone();
        let linked = placement.linked().dense.bytes as f64;
        assert!(linked > 0.0 && !placement.cpu_layers.is_empty(), "{cpu} {link}: {placement:?}");
        let link_seconds = linked / (link * 1e9);
        let all = speed::decode(&dense, &placement, &machine, Decode::CpuAndLink).expect("known");
        // Moving one layer more would tip the scales.
        let tip = one / (link * 1e9) + one / (machine.cpu.expect("a CPU") * 1e9) + 1e-3;
        assert!((0.0..tip).contains(&(all - link_seconds)), "{cpu} {link}: {all} and {link_seconds}, a layer {tip}");
    }
}

#[test]
fn both_are_never_slower_than_either_alone_where_ram_is_free() {
    let dense = facts(&dense());
    for (cpu, link) in [(79.0, 55.4), (79.0, 12.0), (20.0, 55.4), (40.0, 25.0), (10.0, 3.0)] {
        for vram in [4, 8, 12, 14] {
            let all = planned(&dense, &machine(cpu, link, UNLIMITED), vram, &Asked::default());
            let [both, streaming, prefetch] = [Strategy::Combined, Strategy::Extend, Strategy::HostCopyPrefetch]
                .map(|strategy| 1.0 / decode(&all, strategy));
            let handovers = of(&all, Strategy::Combined).placement.handovers as f64 * calibration::HANDOVER_SECONDS;
            // Attention is always left to the link, beside which the CPU is slower.
            assert!(
                both <= streaming && both <= 1.1 * prefetch + handovers,
                "{cpu} {link} {vram}: {both} {streaming} {prefetch}"
            );
        }
    }
    // The machine whose decode is the reason for all this.
    let all = planned(&dense, &machine(79.0, 55.4, UNLIMITED), 12, &Asked::default());
    assert!(
        decode(&all, Strategy::Combined) > 1.25 * decode(&all, Strategy::Offload),
        "{}",
        decode(&all, Strategy::Combined)
    );
}

#[test]
fn where_the_ram_is_the_limit_both_gain_little() {
    let dense = facts(&dense());
    let all = planned(&dense, &machine(70.0, 25.0, 70.0), 8, &Asked::default());
    let gain = decode(&all, Strategy::Combined) / decode(&all, Strategy::HostCopyPrefetch);
    assert!((0.9..1.2).contains(&gain), "{gain}");
    let free = planned(&dense, &machine(70.0, 25.0, UNLIMITED), 8, &Asked::default());
    assert!(decode(&free, Strategy::Combined) > decode(&all, Strategy::Combined));
}

#[test]
fn what_is_not_known_of_the_ram_is_not_predicted_but_can_be_asked_for() {
    let dense = facts(&dense());
    let known = machine(79.0, 55.4, UNLIMITED);
    let unknown = planned(&dense, &Machine { together: None, ..known }, 12, &Asked::default());
    assert_eq!(of(&unknown, Strategy::Combined).decode, None);
    let placement = &of(&unknown, Strategy::Combined).placement;
    assert_eq!(*placement, of(&planned(&dense, &known, 12, &Asked::default()), Strategy::Combined).placement);
    // Without any speed: some to each.
    let nothing = planned(&dense, &Machine::default(), 12, &Asked::default());
    let placement = &of(&nothing, Strategy::Combined).placement;
    assert!(placement.linked().bytes() > 0 && !placement.cpu_layers.is_empty(), "{placement:?}");
}

#[test]
fn graphs_are_off_where_copies_run_ahead_and_launching_does_not_show() {
    let machine = machine(79.0, 55.4, UNLIMITED);
    let direct =
        |facts: &Facts, vram, strategy| of(&planned(facts, &machine, vram, &Asked::default()), strategy).direct;
    let (dense, moe) = (facts(&dense()), facts(&moe()));
    for (facts, vram) in [(&dense, 12), (&moe, 8)] {
        assert!(direct(facts, vram, Strategy::Extend));
        for strategy in [Strategy::ExtendInPlace, Strategy::Offload, Strategy::HostCopyPrefetch] {
            assert!(!direct(facts, vram, strategy), "{strategy:?} copies nothing ahead in answers");
        }
    }
    assert!(
        direct(&dense, 12, Strategy::Combined) && !direct(&moe, 8, Strategy::Combined),
        "experts are read in place"
    );
    // Nearly all of it in VRAM: a token takes about as long as its launches.
    assert!(!direct(&moe, 16, Strategy::Extend));
}

#[test]
fn where_the_ram_is_the_limit_the_split_is_the_one_that_suits_cpu_and_link() {
    let dense = facts(&dense());
    let layers = |ram| {
        let all = planned(&dense, &machine(72.0, 55.4, ram), 12, &Asked::default());
        of(&all, Strategy::Combined).placement.cpu_layers.len()
    };
    let (free, tight) = (layers(UNLIMITED), layers(80.0));
    assert!((9..=14).contains(&free), "{free}");
    assert!(free.abs_diff(tight) <= 2, "{free} {tight}");
}

#[test]
fn experts_are_not_streamed_in_decode_so_nothing_is_gained_for_them() {
    let moe = facts(&moe());
    let all = planned(&moe, &machine(79.0, 55.4, UNLIMITED), 8, &Asked::default());
    let (both, prefetch) = (of(&all, Strategy::Combined), of(&all, Strategy::HostCopyPrefetch));
    let layer = moe.layers[0].experts().bytes;
    assert!(both.placement.linked().bytes() < layer, "whole layers, as many as are outside: {:?}", both.placement);
    assert!((both.decode.expect("known") / prefetch.decode.expect("known") - 1.0).abs() < 0.05);
    // With a CPU that is slower than the link: all of them stay with the GPU.
    let all = planned(&moe, &machine(10.0, 55.4, UNLIMITED), 8, &Asked::default());
    assert_eq!(of(&all, Strategy::Combined).placement.cpu_layers, [0; 0]);
}

#[test]
fn the_micro_batch_is_large_where_prompts_gain_more_by_it_than_answers_lose() {
    let (dense, moe) = (facts(&dense()), facts(&moe()));
    let picks = |facts: &Facts, vram, link| {
        let all = planned(facts, &machine(79.0, link, UNLIMITED), vram, &Asked::default());
        [Strategy::Extend, Strategy::Offload, Strategy::HostCopyPrefetch, Strategy::Combined]
            .map(|strategy| of(&all, strategy).ubatch)
    };
    for link in [12.0, 25.0, 55.4] {
        // A small one computes as long as the copies take, or nearly: a large one would only cost VRAM.
        assert_eq!(picks(&dense, 12, link), [512; 4], "{link}");
    }
    // A large one copies the experts half as often. Where the GPU reads them in place in decode, over that same slow
    // link, the experts that its scratch memory displaces cost more.
    assert_eq!(picks(&moe, 8, 12.0), [512, 2048, 2048, 2048]);
    assert_eq!(picks(&moe, 8, 55.4), [512; 4], "a fast link has little to gain");
    // Prompts alone: in a large one the copies hide.
    let machine = machine(79.0, 55.4, UNLIMITED);
    let prompt = |ubatch, how| {
        let placement = Placement::by_tensor(&moe, &setting(8, 2048, ubatch));
        ubatch as f64 / speed::prefill(&moe, &placement, &machine, ubatch, how).expect("known")
    };
    let (small, large) = (prompt(512, Prefill::Ahead), prompt(2048, Prefill::Ahead));
    assert!(large > 2.5 * small && large > 1.2 * prompt(2048, Prefill::Copied), "{small} {large}");
}

#[test]
fn a_way_that_was_asked_for_is_taken_though_others_are_faster() {
    let dense = facts(&dense());
    let machine = machine(79.0, 55.4, UNLIMITED);
    for strategy in [Strategy::HostCopyPrefetch, Strategy::Combined, Strategy::ExtendInPlace, Strategy::Offload] {
        let asked = Asked { strategy: Some(strategy), ..Asked::default() };
        let all = planned(&dense, &machine, 12, &asked);
        assert_eq!(winner(&all, asked.strategy).map(|prediction| prediction.strategy), Some(strategy));
    }
    let asked = Asked { strategy: Some(Strategy::Vram), ..Asked::default() };
    assert!(winner(&planned(&dense, &machine, 12, &asked), asked.strategy).is_none(), "it does not fit");
    let all = planned(&dense, &machine, 140, &Asked { strategy: Some(Strategy::Combined), ..Asked::default() });
    assert_eq!(
        winner(&all, Some(Strategy::Combined)).map(|strategy| strategy.placement.cpu_layers.len()),
        Some(0),
        "all fits"
    );
}

#[test]
fn what_the_user_turned_on_or_off_rules_ways_out() {
    let dense = facts(&dense());
    let machine = machine(79.0, 55.4, UNLIMITED);
    let possible = |asked: Asked| {
        let all = planned(&dense, &machine, 12, &asked);
        let possible = all.iter().filter(|prediction| prediction.is_possible());
        possible.map(|prediction| prediction.strategy).collect::<Vec<_>>()
    };
    let none = Asked::default();
    assert_eq!(
        possible(none),
        [
            Strategy::ExtendInPlace,
            Strategy::ExtendBlind,
            Strategy::Extend,
            Strategy::Offload,
            Strategy::HostCopyPrefetch,
            Strategy::Combined
        ]
    );
    assert_eq!(
        possible(Asked { stream: Some(Stream::Off), ..none }),
        [Strategy::ExtendInPlace, Strategy::ExtendBlind, Strategy::Offload, Strategy::HostCopyPrefetch]
    );
    assert_eq!(
        possible(Asked { stream: Some(Stream::On), ..none }),
        [Strategy::Extend, Strategy::Offload, Strategy::HostCopyPrefetch, Strategy::Combined]
    );
    assert_eq!(
        possible(Asked { host_copy_prefetch: Some(HostCopyPrefetch::On), ..none }),
        [
            Strategy::ExtendInPlace,
            Strategy::ExtendBlind,
            Strategy::Extend,
            Strategy::HostCopyPrefetch,
            Strategy::Combined
        ]
    );
    let both = Asked { strategy: Some(Strategy::Combined), stream: Some(Stream::Off), ..none };
    let all = planned(&dense, &machine, 12, &both);
    assert!(winner(&all, both.strategy).is_none());
    assert_eq!(of(&all, Strategy::Combined).problem.as_deref(), Some("you have turned streaming off"));
}

#[test]
fn the_ring_is_part_of_the_vram() {
    let dense = facts(&dense());
    let machine = machine(79.0, 55.4, UNLIMITED);
    let sized = |ring: u64| {
        let setting = Setting { ring, ..setting(12, 2048, 512) };
        let all = predictions(&dense, &machine, &setting, &[512], &Asked::default());
        let outside = |strategy| of(&all, strategy).placement.outside.bytes();
        assert!(all.iter().skip(1).all(|prediction| prediction.placement.vram() <= setting.vram));
        (
            outside(Strategy::Extend),
            outside(Strategy::ExtendInPlace),
            outside(Strategy::Combined),
            outside(Strategy::HostCopyPrefetch),
        )
    };
    let (small, large) = (sized(0), sized(1 << 30));
    assert!((large.0 - small.0).abs_diff(1 << 30) < 1 << 20, "{small:?} {large:?}");
    assert_eq!(large.1, small.1, "reading in place needs none");
    assert!(large.2 > small.2 && large.3 > small.3);
}

#[test]
fn slots_beside_the_cpu_take_what_whole_layers_leave() {
    let moe = facts(&moe());
    for (vram, ubatch) in [(8, 512), (8, 2048), (6, 512), (12, 512)] {
        let setting = Setting { ring: (vram << 30) / 16, ..setting(vram, 2048, ubatch) };
        let (alone, prefetched) = (Placement::offloaded(&moe, &setting), Placement::prefetched(&moe, &setting));
        let fixed = Placement::prefetched(&moe, &Setting { ring_is_fixed: true, ..setting });
        assert!(prefetched.vram() <= setting.vram && prefetched.ring <= setting.ring, "{prefetched:?}");
        assert!(prefetched.ring >= 2 * moe.largest, "two tensors have room: {} of {}", prefetched.ring, moe.largest);
        assert_eq!(fixed.ring, setting.ring);
        // Not one layer more than the ring needs leaves the GPU.
        let without = Placement::offloaded(&moe, &Setting { ring: 0, ..setting });
        let layers = |placement: &Placement| placement.cpu_moe.expect("layers");
        assert!(
            layers(&without) <= layers(&prefetched) && layers(&prefetched) <= layers(&alone).min(layers(&without) + 1)
        );
    }
}

#[test]
fn experts_in_vram_by_use_win_where_most_reads_find_a_copy() {
    let moe = facts(&moe());
    let machine = Machine::new(&h200());
    let setting = |vram| Setting { ring: 512 << 20, ..setting(vram, 2048, 512) };
    let planned = |vram, asked: &Asked| predictions(&moe, &machine, &setting(vram), &UBATCHES, asked);
    let all = planned(8, &Asked::default());
    let kept = winner(&all, None).expect("a winner");
    assert_eq!((kept.strategy, kept.direct, passed_over(&all, None)), (Strategy::Experts, false, None));
    let slots = kept.placement.expert_slots.expect("slots");
    assert!((40..=50).contains(&slots.slots) && slots.bytes > 4 << 30, "{slots:?}");
    assert!(kept.placement.vram() <= 8 << 30 && kept.placement.vram() > 7 << 30, "{:?}", kept.placement);
    assert_eq!(kept.placement.outside.experts, moe.computed().experts, "all of them are in RAM as well");
    // docs/speed.md: about 160 tokens a second at 0.9.
    let decode = kept.decode.expect("known");
    assert!((135.0..=175.0).contains(&decode) && slots.hit_rate > 0.85, "{decode} {slots:?}");
    assert!(decode > 2.0 * self::decode(&all, Strategy::Offload), "{decode}");
    let streamed = of(&all, Strategy::Extend);
    assert!(kept.prefill < streamed.prefill, "nothing is taken off for what has copies: {streamed:?}");

    // Less VRAM, fewer hits; and where all of it fits nothing is gained.
    assert!(self::decode(&planned(5, &Asked::default()), Strategy::Experts) < 0.7 * decode);
    let all = planned(140, &Asked::default());
    assert_eq!(all.iter().map(|prediction| prediction.strategy).collect::<Vec<_>>(), [Strategy::Vram]);
    let asked = Asked { strategy: Some(Strategy::Experts), ..Asked::default() };
    let all = planned(140, &asked);
    let whole = winner(&all, asked.strategy).and_then(|prediction| prediction.placement.expert_slots).expect("slots");
    assert_eq!((whole.slots, whole.hit_rate), (128, 1.0));
}

#[test]
fn experts_that_cannot_be_in_vram_by_use_say_why() {
    let (dense, moe) = (facts(&dense()), facts(&moe()));
    let machine = Machine::new(&h200());
    let none = Asked { strategy: Some(Strategy::Experts), ..Asked::default() };
    let why = |facts: &Facts, setting: Setting, asked: Asked| {
        let all = predictions(facts, &machine, &setting, &[512], &asked);
        assert!(winner(&all, asked.strategy).is_none());
        of(&all, Strategy::Experts).problem.clone().expect("a reason")
    };
    let enough = setting(8, 2048, 512);
    assert_eq!(why(&dense, enough, none), "the model has no experts");
    assert!(why(&moe, enough, Asked { no_expert_rules: true, ..none }).contains("no kernel rule"));
    assert_eq!(
        why(&moe, enough, Asked { experts: Some(ExpertCache::Off), ..none }),
        "you have turned experts in VRAM off"
    );
    assert_eq!(why(&moe, enough, Asked { stream: Some(Stream::Off), ..none }), "you have turned streaming off");
    assert!(why(&moe, Setting { ram: 10 << 30, ..enough }, none).contains("of RAM, 10 GiB may be used"));
    assert!(why(&moe, setting(2, 2048, 512), none).contains("a token uses 8"));
    let shown = predictions(&dense, &machine, &setting(12, 2048, 512), &[512], &Asked::default());
    assert!(
        shown.iter().all(|prediction| prediction.strategy != Strategy::Experts),
        "of no use in a dense model's table"
    );
    let without_rules = Asked { no_expert_rules: true, ..Asked::default() };
    let other = predictions(&moe, &machine, &enough, &[512], &without_rules);
    assert_ne!(winner(&other, None).map(|prediction| prediction.strategy), Some(Strategy::Experts));

    // Turned on, they are not left out; in a model that has none that means nothing.
    let on = Asked { experts: Some(ExpertCache::On), ..Asked::default() };
    let all = predictions(&moe, &machine, &enough, &[512], &on);
    let possible: Vec<_> =
        all.iter().filter(|strategy| strategy.is_possible()).map(|strategy| strategy.strategy).collect();
    assert_eq!(possible, [Strategy::Experts]);
    assert!(winner(&predictions(&dense, &machine, &setting(12, 2048, 512), &[512], &on), None).is_some());
}

#[test]
fn what_needs_the_cpu_has_to_be_faster_by_more_than_a_busy_one_takes() {
    let moe = facts(&moe());
    let mut all = planned(&moe, &machine(79.0, 55.4, UNLIMITED), 8, &Asked::default());
    let mut chosen = |offload: f64, streamed: f64, kept: f64| {
        for prediction in &mut all {
            prediction.request = Some(match prediction.strategy {
                Strategy::Offload => offload,
                Strategy::Extend => streamed,
                Strategy::Experts => kept,
                _ => 9.0,
            });
        }
        let strategy = |prediction: &Prediction| prediction.strategy;
        (winner(&all, None).map(strategy), passed_over(&all, None).map(strategy))
    };
    assert_eq!(chosen(1.0, 1.14, 2.0), (Some(Strategy::Extend), Some(Strategy::Offload)));
    assert_eq!(chosen(1.0, 1.14, 1.13), (Some(Strategy::Experts), Some(Strategy::Offload)));
    assert_eq!(chosen(1.0, 1.16, 1.16), (Some(Strategy::Offload), None));
    assert_eq!(chosen(1.0, 0.9, 2.0), (Some(Strategy::Extend), None), "it is the fastest");
    assert_eq!(
        winner(&all, Some(Strategy::Offload)).map(|prediction| prediction.strategy),
        Some(Strategy::Offload),
        "asked for"
    );
    assert_eq!(passed_over(&all, Some(Strategy::Offload)), None);

    // What cannot be had is nothing to take instead, and without speeds nothing is passed over.
    let fixed = Asked { stream: Some(Stream::On), experts: Some(ExpertCache::Off), ..Asked::default() };
    let all = planned(&moe, &machine(300.0, 12.0, UNLIMITED), 8, &fixed);
    assert_eq!(winner(&all, None).map(|prediction| prediction.strategy.uses_cpu()), Some(true));
    let all = planned(&moe, &Machine::default(), 8, &Asked::default());
    assert_eq!(passed_over(&all, None), None);
}
