//! Tables of situations, and properties of any sequence of them.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    total: Percent::HALF,
    in_window: Percent::HALF,
    window: Duration::from_secs(10),
    backup_below: Percent::HALF,
    backup_return: Duration::from_secs(10),
};

fn seen() -> Seen {
    Seen {
        state: HealthState::Up,
        is_hard: true,
        is_suspect: false,
        is_blind: false,
        is_ready: true,
        is_new: false,
        is_backup: false,
        weight: 1,
        failing_since: None,
        ruling: Ruling::default(),
    }
}

/// `U`p, `?` unknown, `H`ard and `S`oft down, `h` and `s` the same and out already, `u` up and
/// suspect, `d`rained, `n`ew, `b` not seen, `B`ackup that is up, `X` one that is down.
fn of(letter: char) -> Seen {
    let down = Seen { state: HealthState::Down, is_suspect: true, ..seen() };
    let out = Ruling { is_out: true, ..Ruling::default() };
    match letter {
        'U' => seen(),
        '?' => Seen { state: HealthState::Unknown, ..seen() },
        'H' => down,
        'h' => Seen { ruling: out, ..down },
        'S' => Seen { is_hard: false, ..down },
        's' => Seen { is_hard: false, ruling: out, ..down },
        'u' => Seen { is_suspect: true, ..seen() },
        'd' => Seen { is_ready: false, ..seen() },
        'n' => Seen { is_new: true, state: HealthState::Unknown, ruling: out, ..seen() },
        'b' => Seen { is_blind: true, ..down },
        'B' => Seen { is_backup: true, ..seen() },
        'X' => Seen { is_backup: true, ..down },
        other => panic!("no such backend: {other}"),
    }
}

fn letter(ruling: &Ruling) -> char {
    match ruling.kept {
        Some(Kept::Panic) => 'P',
        Some(Kept::Suspected) => 'S',
        Some(Kept::Untested) => 'T',
        Some(Kept::Window) => 'W',
        Some(Kept::Frozen) => 'F',
        Some(Kept::Uplink) => 'L',
        None if ruling.is_standby => 'r',
        None if ruling.is_out => '-',
        None => '+',
    }
}

fn rule(backends: &str, tested: bool, frozen: bool) -> String {
    let now = Instant::now();
    let seen: Vec<Seen> = backends.chars().map(of).collect();
    let around = Circumstances { is_frozen: frozen, tested_at: tested.then_some(now) };
    let rulings = Governor::new(LIMITS).rule(&seen, around, now);
    rulings.iter().map(letter).collect()
}

#[test]
fn rulings_are_as_the_table_says() {
    for (what, backends, expect) in [
        ("all is well", "UUU", "+++"),
        ("one fails", "UUH", "++-"),
        ("one says no", "UUS", "++-"),
        ("half of three is two", "UHh", "+--"),
        ("the only one is kept", "H", "P"),
        ("of two one is kept", "Hh", "P-"),
        ("nobody answers: as many as may be out are, the rest is kept", "HHHHHHH", "----PPP"),
        ("all say no: all serve", "SSSSSSS", "PPPPPPP"),
        ("who was out says no, too, and serves again", "sssSSSS", "PPPPPPP"),
        ("who answers serves, who does not stays out", "hhhsSSS", "---PPPP"),
        ("so many fail at once that more soon would", "UUSuuuu", "++S++++"),
        ("but who does not answer at all goes", "UUHuuuu", "++-++++"),
        ("the operator's are not counted", "UUddH", "++++-"),
        ("nor is who never was up", "UUnnnHU", "++----+"),
        ("the link was down: nobody is taken out", "Ubb", "+LL"),
        ("a backup stays in reserve", "UUB", "++r"),
        ("a backup replaces the only one", "HB", "-+"),
        ("a dead backup does not", "HX", "P-"),
        ("half is enough", "UHB", "+-r"),
        ("less is not", "UHHB", "+--+"),
        ("unknown is neither", "???", "+++"),
    ] {
        assert_eq!(rule(backends, true, false), expect, "{what}: {backends}");
    }
}

#[test]
fn where_most_fail_the_prober_is_tested_first() {
    assert_eq!(rule("UHH", false, false), "+TT");
    assert_eq!(rule("UHH", true, false), "+--");
    assert_eq!(rule("UUUHH", false, false), "+++--", "two of five are not most");
    let now = Instant::now();
    let mut governor = Governor::new(LIMITS);
    let seen: Vec<Seen> = "UHH".chars().map(of).collect();
    let around = |at| Circumstances { is_frozen: false, tested_at: at };
    let ago = now.checked_sub(TEST_COUNTS);
    governor.rule(&seen, around(ago), now);
    assert!(governor.wants_test(), "an old test does not count");
    governor.rule(&seen, around(Some(now)), now);
    assert!(!governor.wants_test());
}

#[test]
fn frozen_is_frozen() {
    assert_eq!(rule("UUH", true, true), "++F");
    assert_eq!(rule("Uhs", true, true), "+--");
    let returned = Seen { ruling: Ruling { is_out: true, ..Ruling::default() }, ..seen() };
    let around = Circumstances { is_frozen: true, tested_at: None };
    let rulings = Governor::new(LIMITS).rule(&[seen(), returned], around, Instant::now());
    assert!(rulings[1].is_out, "nor does anybody return");
}

#[test]
fn whether_it_is_a_panic_is_told_while_frozen_too() {
    let now = Instant::now();
    let mut governor = Governor::new(LIMITS);
    for (backends, is_frozen, is_panic) in [
        ("SSS", false, true),
        ("SSS", true, true),
        ("UUU", true, false),
        ("HHH", true, true),
        ("UUH", true, false),
    ] {
        let seen: Vec<Seen> = backends.chars().map(of).collect();
        governor.rule(&seen, Circumstances { is_frozen, tested_at: Some(now) }, now);
        assert_eq!(governor.panic_since().is_some(), is_panic, "{backends}");
        let failing = backends.chars().filter(|c| *c != 'U').count();
        assert_eq!(governor.last_counts().failing, failing, "{backends}");
    }
}

#[test]
fn the_window_lets_some_go_at_a_time() {
    let start = Instant::now();
    let in_window = Percent::new(20).unwrap();
    let mut governor = Governor::new(Limits { in_window, ..LIMITS });
    let mut seen: Vec<Seen> = "UUUUUUUHHH".chars().map(of).collect();
    let around = Circumstances { is_frozen: false, tested_at: None };
    let mut at = |seconds: u64| {
        let rulings = governor.rule(&seen, around, start + Duration::from_secs(seconds));
        seen.iter_mut().zip(&rulings).for_each(|(s, r)| s.ruling = *r);
        let next = governor.next(rulings.iter().copied()).map(|at| (at - start).as_secs());
        (rulings.iter().map(letter).collect::<String>(), next)
    };
    assert_eq!(at(0), ("+++++++--W".into(), Some(10)));
    assert_eq!(at(9), ("+++++++--W".into(), Some(10)));
    assert_eq!(at(10), ("+++++++---".into(), None));
}

#[test]
fn who_falls_again_and_again_is_taken_out_each_time() {
    let start = Instant::now();
    let mut governor = Governor::new(LIMITS);
    let around = Circumstances { is_frozen: false, tested_at: None };
    let mut known = [Ruling::default(); 3];
    let mut at = |seconds: u64, backends: &str| {
        let with = |(letter, ruling): (char, &Ruling)| Seen { ruling: *ruling, ..of(letter) };
        let seen: Vec<Seen> = backends.chars().zip(&known).map(with).collect();
        let rulings = governor.rule(&seen, around, start + Duration::from_secs(seconds));
        known.copy_from_slice(&rulings);
        rulings.iter().map(letter).collect::<String>()
    };
    for second in [0, 2, 4, 6] {
        assert_eq!(at(second, "HUU"), "-++", "after {second} s");
        assert_eq!(at(second + 1, "UUU"), "+++");
    }
    assert_eq!(at(8, "UHU"), "+-+", "it took no place of others");
    assert_eq!(at(9, "UUH"), "++W", "and has its own");
}

#[test]
fn backups_return_to_reserve_when_enough_have_been_well_for_a_while() {
    let start = Instant::now();
    let mut governor = Governor::new(LIMITS);
    let around = Circumstances { is_frozen: false, tested_at: Some(start) };
    let mut at = |seconds: u64, backends: &str| {
        let seen: Vec<Seen> = backends.chars().map(of).collect();
        let rulings = governor.rule(&seen, around, start + Duration::from_secs(seconds));
        rulings.iter().map(letter).collect::<String>()
    };
    assert_eq!(at(0, "UUB"), "++r");
    assert_eq!(at(1, "UdB"), "++r", "half is enough");
    assert_eq!(at(2, "ddB"), "+++");
    assert_eq!(at(3, "UUB"), "+++", "not at once");
    assert_eq!(at(9, "ddB"), "+++", "and the while begins anew");
    assert_eq!(at(10, "UUB"), "+++");
    assert_eq!(at(19, "UUB"), "+++");
    assert_eq!(at(20, "UUB"), "++r");
}

#[test]
fn a_freeze_ends_no_while() {
    let start = Instant::now();
    let mut governor = Governor::new(LIMITS);
    let mut at = |seconds: u64, backends: &str, is_frozen: bool| {
        let now = start + Duration::from_secs(seconds);
        let around = Circumstances { is_frozen, tested_at: Some(now) };
        let seen: Vec<Seen> = backends.chars().map(of).collect();
        let rulings = governor.rule(&seen, around, now);
        let next = governor.next(rulings.iter().copied()).map(|at| (at - start).as_secs());
        (governor.uses_backups(), next)
    };
    assert_eq!(at(0, "ddB", false), (true, None));
    assert_eq!(at(1, "UUB", false), (true, Some(11)));
    assert_eq!(at(2, "UUB", true), (true, None), "it would be asked again and again");
    assert_eq!(at(20, "UUB", true), (true, None));
    assert_eq!(at(30, "UUB", false), (true, Some(40)), "and nobody looked meanwhile");
    assert_eq!(at(40, "UUB", false), (false, None));
}

#[test]
fn whoever_is_no_backup_any_more_is_not_in_reserve() {
    let reserve = Ruling { is_standby: true, ..Ruling::default() };
    let seen = [seen(), Seen { ruling: reserve, ..seen() }];
    for is_frozen in [false, true] {
        let around = Circumstances { is_frozen, tested_at: None };
        let rulings = Governor::new(LIMITS).rule(&seen, around, Instant::now());
        assert!(!rulings[1].is_standby, "frozen: {is_frozen}");
    }
}

#[test]
fn at_most_so_many_may_be_out() {
    for (share, counted, expect) in [
        (50, 0, 0),
        (50, 1, 0),
        (50, 2, 1),
        (50, 3, 2),
        (50, 7, 4),
        (30, 10, 3),
        (99, 10, 9),
        (100, 10, 10),
        (100, 1, 1),
        (0, 10, 0),
    ] {
        assert_eq!(most(Percent::new(share).unwrap(), counted), expect, "{share} % of {counted}");
    }
}

/// What happens to one backend.
fn happens() -> impl Strategy<Value = (u8, u16)> {
    (0u8..10, 0u16..3000)
}

proptest! {
    /// In every sequence: never fewer in service than the floor, nobody kept or out without reason,
    /// and the short way rules as the long one does.
    #[test]
    fn never_below_the_floor(
        count in 1usize..9,
        share in prop::sample::select(vec![0u8, 20, 50, 99, 100]),
        in_window in prop::sample::select(vec![20u8, 50, 100]),
        events in prop::collection::vec((0usize..9, happens(), any::<bool>()), 1..80),
    ) {
        let limits = Limits {
            total: Percent::new(share).unwrap(),
            in_window: Percent::new(in_window).unwrap(),
            ..LIMITS
        };
        let mut now = Instant::now();
        let mut governor = Governor::new(limits);
        let mut seen = vec![of('U'); count];
        let mut around = Circumstances { is_frozen: false, tested_at: None };
        governor.rule(&seen, around, now);
        for (at, (what, wait), tested) in events {
            now += Duration::from_millis(u64::from(wait));
            around.tested_at = tested.then_some(now);
            let at = at % count;
            let before = seen[at];
            let s = &mut seen[at];
            match what {
                0..=2 => (s.state, s.is_suspect, s.failing_since) = (HealthState::Up, false, None),
                3 => s.is_suspect = true,
                4 | 5 => (s.state, s.is_hard, s.is_suspect, s.failing_since) =
                    (HealthState::Down, true, true, Some(now)),
                6 => (s.state, s.is_hard, s.is_suspect, s.failing_since) =
                    (HealthState::Down, false, true, Some(now)),
                7 => s.is_ready = !s.is_ready,
                8 => s.is_blind = !s.is_blind,
                _ => around.is_frozen = !around.is_frozen,
            }
            let mut long = governor.clone();
            let rulings = long.rule(&seen, around, now);
            if !around.is_frozen
                && let Some(short) = governor.rule_on(&before, &seen[at], now)
            {
                prop_assert_eq!(short, rulings[at]);
                for (other, ruling) in rulings.iter().enumerate().filter(|(o, _)| *o != at) {
                    prop_assert_eq!(seen[other].ruling, *ruling, "another is affected");
                }
                prop_assert_eq!(governor.last_counts(), long.last_counts());
            } else {
                governor = long;
            }
            for (s, ruling) in seen.iter_mut().zip(&rulings) {
                s.ruling = *ruling;
            }
            let counted: Vec<&Seen> = seen.iter().filter(|s| s.is_ready).collect();
            let out = counted.iter().filter(|s| s.ruling.is_out && !s.is_blind).count();
            if !around.is_frozen {
                prop_assert!(out <= most(limits.total, counted.len()), "{out} of {}", counted.len());
            }
            for s in &counted {
                let is_down = s.state == HealthState::Down;
                prop_assert!(!s.ruling.is_out || is_down || around.is_frozen, "out without reason");
                prop_assert_eq!(s.ruling.kept.is_some(), is_down && !s.ruling.is_out);
            }
        }
    }
}
