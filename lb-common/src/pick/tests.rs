//! The choice of a backend, as tables of events: what the words say, what the flow table holds,
//! which packet comes, where it goes, and what it leaves behind.

use super::*;
use crate::abi::{FlowKey, join_ports};
use crate::hash::flow_v4;
use crate::host::{FIRST, HostMaps, SLOTS, VIP4, full};

const A: u32 = FIRST;
const B: u32 = FIRST + 1;
const C: u32 = FIRST + 2;
const SPARE: u32 = FIRST + 3;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN: u8 = 0x11;
const RST: u8 = 0x04;
/// Not TCP.
const UDP: u8 = 0x80;

const FULL: Word = full(0);
const FAILED: Word = Word::new(0, 0, 0, 0, false, false);
const DRAINING: Word = Word::new(0, Word::FULL, 0, 0, true, false);
const DRAINED: Word = Word::new(0, 0, 0, 0, true, false);
const RETURNING: Word = Word::new(Word::FULL, 0, 0, 0, true, false);
const RETIRED: Word = Word::new(0, 0, 0, 0, true, true);
const REUSED: Word = Word::new(Word::FULL, Word::FULL, 0, 1, true, false);

/// An entry's row, generation and state; its time is [`THEN`].
type Held = (u32, u32, u32);

const THEN: u32 = 999;

fn flow(port: u16, flags: u8) -> Flow {
    let tcp = flags != UDP;
    let key = FlowKey {
        source: [0x0101_0101, 0, 0, 0],
        destination: VIP4,
        ports: join_ports(port.to_be(), 80u16.to_be()),
        kind: FlowKey::kind_of(4, if tcp { 6 } else { 17 }),
    };
    Flow { key, tcp_flags: if tcp { flags } else { 0 }, length: 40 }
}

fn hash_of(maps: &HostMaps, flow: &Flow) -> u64 {
    flow_v4(maps.settings.seed, &flow.key)
}

/// A port of a flow whose walk visits A, then B, then C, with middling share bits at home.
fn port_of_a(maps: &HostMaps, flags: u8) -> u16 {
    let table = maps.service(false, 0).table;
    let visits = |hash: u64, i: u32| {
        let index = index_of(maps, table, fast_range(step(hash, i), SLOTS));
        index.map(|index| FIRST + index)
    };
    (1024..=u16::MAX)
        .find(|&port| {
            let hash = hash_of(maps, &flow(port, flags));
            (0..3).map(|i| visits(hash, i)).eq([Some(A), Some(B), Some(C)])
                && (30_000..35_000).contains(&share_bits(hash))
        })
        .expect("some flow has such a walk")
}

struct Case {
    what: &'static str,
    /// Words of A, B and C.
    words: [Word; 3],
    marked: bool,
    held: Option<Held>,
    packet: u8,
    goes: Result<u32, Verdict>,
    events: &'static [Event],
    leaves: Option<Held>,
}

use Event::{FlowInsert, FlowLookup, FlowVoid, Rehash, WalkExhausted};

const NOBODY: Result<u32, Verdict> = Err(Verdict::DropNoBackend);
const CLOSING: u32 = STATE_CLOSING;

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Steady state: no look-up, whatever comes.
    Case { what: "full, SYN", words: [FULL; 3], marked: false, held: None, packet: SYN,
        goes: Ok(A), events: &[], leaves: None },
    Case { what: "full, ACK", words: [FULL; 3], marked: false, held: None, packet: ACK,
        goes: Ok(A), events: &[], leaves: None },
    Case { what: "full, RST", words: [FULL; 3], marked: false, held: None, packet: RST,
        goes: Ok(A), events: &[], leaves: None },
    Case { what: "full, UDP", words: [FULL; 3], marked: false, held: None, packet: UDP,
        goes: Ok(A), events: &[], leaves: None },
    Case { what: "full: an entry is not even looked for", words: [FULL; 3], marked: false, held: Some((B, 0, 0)), packet: ACK,
        goes: Ok(A), events: &[], leaves: Some((B, 0, 0)) },
    Case { what: "another backend's failure does not matter", words: [FULL, FAILED, DRAINING], marked: false, held: None, packet: ACK,
        goes: Ok(A), events: &[], leaves: None },

    // A settled failure: re-hashed, still without state.
    Case { what: "failed, SYN", words: [FAILED, FULL, FULL], marked: false, held: None, packet: SYN,
        goes: Ok(B), events: &[Rehash], leaves: None },
    Case { what: "failed, ACK", words: [FAILED, FULL, FULL], marked: false, held: None, packet: ACK,
        goes: Ok(B), events: &[Rehash], leaves: None },
    Case { what: "failed, UDP", words: [FAILED, FULL, FULL], marked: false, held: None, packet: UDP,
        goes: Ok(B), events: &[Rehash], leaves: None },
    Case { what: "two failed", words: [FAILED, FAILED, FULL], marked: false, held: None, packet: SYN,
        goes: Ok(C), events: &[Rehash], leaves: None },

    // Draining: new flows leave, existing ones stay, both are recorded.
    Case { what: "draining, new flow", words: [DRAINING, FULL, FULL], marked: false, held: None, packet: SYN,
        goes: Ok(B), events: &[Rehash, FlowLookup, FlowInsert], leaves: Some((B, 0, 0)) },
    Case { what: "draining, existing flow", words: [DRAINING, FULL, FULL], marked: false, held: None, packet: ACK,
        goes: Ok(A), events: &[Rehash, FlowLookup, FlowInsert], leaves: Some((A, 0, 0)) },
    Case { what: "draining, existing flow ends", words: [DRAINING, FULL, FULL], marked: false, held: None, packet: FIN,
        goes: Ok(A), events: &[Rehash, FlowLookup, FlowInsert], leaves: Some((A, 0, CLOSING)) },
    Case { what: "draining, recorded flow", words: [DRAINING, FULL, FULL], marked: false, held: Some((B, 0, 0)), packet: ACK,
        goes: Ok(B), events: &[Rehash, FlowLookup], leaves: Some((B, 0, 0)) },
    Case { what: "draining, retransmitted SYN of a live flow", words: [DRAINING, FULL, FULL], marked: false, held: Some((A, 0, 0)), packet: SYN,
        goes: Ok(A), events: &[Rehash, FlowLookup], leaves: Some((A, 0, 0)) },
    Case { what: "draining, SYN on the ports of a finished flow", words: [DRAINING, FULL, FULL], marked: false, held: Some((A, 0, CLOSING)), packet: SYN,
        goes: Ok(B), events: &[Rehash, FlowLookup, FlowVoid, FlowInsert], leaves: Some((B, 0, 0)) },
    Case { what: "draining, SYN anew on a recorded flow to an admitting backend", words: [DRAINING, FULL, FULL], marked: false, held: Some((B, 0, CLOSING)), packet: SYN,
        goes: Ok(B), events: &[Rehash, FlowLookup], leaves: Some((B, 0, 0)) },
    Case { what: "draining, late data after FIN", words: [DRAINING, FULL, FULL], marked: false, held: Some((A, 0, CLOSING)), packet: ACK,
        goes: Ok(A), events: &[Rehash, FlowLookup], leaves: Some((A, 0, CLOSING)) },
    Case { what: "draining, a FIN is noted", words: [DRAINING, FULL, FULL], marked: false, held: Some((A, 0, 0)), packet: FIN,
        goes: Ok(A), events: &[Rehash, FlowLookup], leaves: Some((A, 0, CLOSING)) },
    Case { what: "draining, datagrams are new each", words: [DRAINING, FULL, FULL], marked: false, held: None, packet: UDP,
        goes: Ok(B), events: &[Rehash], leaves: None },
    Case { what: "a visited backend drains, the home failed", words: [FAILED, DRAINING, FULL], marked: false, held: None, packet: SYN,
        goes: Ok(C), events: &[Rehash, FlowLookup, FlowInsert], leaves: Some((C, 0, 0)) },

    // Resets leave no state behind.
    Case { what: "draining, RST of an unknown flow", words: [DRAINING, FULL, FULL], marked: false, held: None, packet: RST,
        goes: Ok(A), events: &[Rehash, FlowLookup], leaves: None },
    Case { what: "draining, RST of a recorded flow", words: [DRAINING, FULL, FULL], marked: false, held: Some((B, 0, 0)), packet: RST,
        goes: Ok(B), events: &[Rehash, FlowLookup], leaves: Some((B, 0, CLOSING)) },
    Case { what: "RST of a void entry removes it", words: [DRAINING, REUSED, FULL], marked: false, held: Some((B, 0, 0)), packet: RST,
        goes: Ok(A), events: &[Rehash, FlowLookup, FlowVoid], leaves: None },

    // Drained: settled, new and unknown flows go elsewhere without state, recorded ones by mark.
    Case { what: "drained, SYN", words: [DRAINED, FULL, FULL], marked: false, held: None, packet: SYN,
        goes: Ok(B), events: &[Rehash], leaves: None },
    Case { what: "drained, unknown flow", words: [DRAINED, FULL, FULL], marked: false, held: None, packet: ACK,
        goes: Ok(B), events: &[Rehash], leaves: None },
    Case { what: "drained, recorded flow of a marked slot", words: [DRAINED, FULL, FULL], marked: true, held: Some((A, 0, 0)), packet: ACK,
        goes: Ok(A), events: &[Rehash, FlowLookup], leaves: Some((A, 0, 0)) },

    // Returning: new flows come home, existing ones stay where they are.
    Case { what: "returning, new flow", words: [RETURNING, FULL, FULL], marked: false, held: None, packet: SYN,
        goes: Ok(A), events: &[Rehash, FlowLookup, FlowInsert], leaves: Some((A, 0, 0)) },
    Case { what: "returning, existing flow", words: [RETURNING, FULL, FULL], marked: false, held: None, packet: ACK,
        goes: Ok(B), events: &[Rehash, FlowLookup, FlowInsert], leaves: Some((B, 0, 0)) },
    Case { what: "returning, recorded flow", words: [RETURNING, FULL, FULL], marked: false, held: Some((A, 0, 0)), packet: ACK,
        goes: Ok(A), events: &[Rehash, FlowLookup], leaves: Some((A, 0, 0)) },

    // Marked slots: looked up, but a miss leaves nothing.
    Case { what: "marked, unknown flow", words: [FULL; 3], marked: true, held: None, packet: ACK,
        goes: Ok(A), events: &[Rehash, FlowLookup], leaves: None },
    Case { what: "marked, flow that lives elsewhere", words: [FULL; 3], marked: true, held: Some((C, 0, 0)), packet: ACK,
        goes: Ok(C), events: &[Rehash, FlowLookup], leaves: Some((C, 0, 0)) },
    Case { what: "marked, datagram", words: [FULL; 3], marked: true, held: Some((C, 0, 0)), packet: UDP,
        goes: Ok(A), events: &[Rehash], leaves: Some((C, 0, 0)) },

    // Entries whose backend is gone are overwritten before the packet leaves.
    Case { what: "entry of a failed backend", words: [FULL, FAILED, FULL], marked: true, held: Some((B, 0, 0)), packet: ACK,
        goes: Ok(A), events: &[Rehash, FlowLookup, FlowVoid, FlowInsert], leaves: Some((A, 0, 0)) },
    Case { what: "entry of a row's earlier owner", words: [FULL, REUSED, FULL], marked: true, held: Some((B, 0, 0)), packet: ACK,
        goes: Ok(A), events: &[Rehash, FlowLookup, FlowVoid, FlowInsert], leaves: Some((A, 0, 0)) },
    Case { what: "entry of a row's present owner", words: [FULL, REUSED, FULL], marked: true, held: Some((B, 1, 0)), packet: ACK,
        goes: Ok(B), events: &[Rehash, FlowLookup], leaves: Some((B, 1, 0)) },
    Case { what: "retired: its connections finish", words: [FULL, RETIRED, FULL], marked: true, held: Some((B, 0, 0)), packet: ACK,
        goes: Ok(B), events: &[Rehash, FlowLookup], leaves: Some((B, 0, 0)) },
    Case { what: "retired: no SYN follows", words: [FULL, RETIRED, FULL], marked: true, held: Some((B, 0, 0)), packet: SYN,
        goes: Ok(A), events: &[Rehash, FlowLookup, FlowVoid, FlowInsert], leaves: Some((A, 0, 0)) },
    Case { what: "retired at home", words: [RETIRED, FULL, FULL], marked: false, held: None, packet: ACK,
        goes: Ok(B), events: &[Rehash], leaves: None },

    // The walk's end.
    Case { what: "nobody admits: the first that serves, recorded", words: [DRAINED; 3], marked: false, held: None, packet: SYN,
        goes: Ok(A), events: &[Rehash, WalkExhausted, FlowLookup, FlowInsert], leaves: Some((A, 0, 0)) },
    Case { what: "nobody admits: the first that serves is not the home", words: [FAILED, DRAINED, DRAINED], marked: false, held: None, packet: ACK,
        goes: Ok(B), events: &[Rehash, WalkExhausted, FlowLookup, FlowInsert], leaves: Some((B, 0, 0)) },
    Case { what: "nobody serves", words: [FAILED; 3], marked: false, held: None, packet: SYN,
        goes: NOBODY, events: &[Rehash, WalkExhausted, FlowLookup], leaves: None },
    Case { what: "nobody serves, datagram", words: [FAILED; 3], marked: false, held: None, packet: UDP,
        goes: NOBODY, events: &[Rehash, WalkExhausted], leaves: None },
    Case { what: "only retired backends are left", words: [RETIRED; 3], marked: false, held: None, packet: SYN,
        goes: NOBODY, events: &[Rehash, WalkExhausted, FlowLookup], leaves: None },
];

fn maps_for(case: &Case) -> HostMaps {
    let mut maps = HostMaps::with_weights(&[1, 1, 1]);
    for (i, word) in (0u32..).zip(case.words) {
        maps.set_word(i, word);
    }
    // Beyond the three there is nobody to spare.
    maps.set_word(SPARE - FIRST, FAILED);
    maps.spares.fill(0x0003_0003_0003_0003);
    maps
}

fn mark(maps: &mut HostMaps, flow: &Flow) {
    let table = maps.service(true, 0).table;
    let (element, bit) = table.mark_at(fast_range(hash_of(maps, flow), SLOTS));
    maps.marks[element as usize] |= 1 << bit;
}

fn held(maps: &HostMaps, flow: &Flow) -> Option<Held> {
    maps.flow(&flow.key).map(|e| (e.row, e.generation, e.state))
}

fn hold(maps: &HostMaps, flow: &Flow, (row, generation, state): Held) {
    maps.put_flow(&flow.key, &FlowEntry { row, generation, last_seen: THEN, state });
}

fn goes(maps: &HostMaps, flow: &Flow, marked: bool) -> Result<u32, Verdict> {
    let service = maps.service(marked, 0);
    pick(maps, &service, flow, hash_of(maps, flow)).map(|picked| picked.row)
}

#[test]
fn every_packet_goes_where_the_words_say() {
    for case in CASES {
        let mut maps = maps_for(case);
        let flow = flow(port_of_a(&maps, case.packet), case.packet);
        if case.marked {
            mark(&mut maps, &flow);
        }
        if let Some(entry) = case.held {
            hold(&maps, &flow, entry);
        }
        let what = case.what;
        assert_eq!(goes(&maps, &flow, case.marked), case.goes, "{what}");
        assert_eq!(maps.take_events(), case.events, "{what}");
        assert_eq!(held(&maps, &flow), case.leaves, "{what}");
    }
}

#[test]
fn a_mark_is_asked_only_if_the_table_has_any() {
    let mut maps = HostMaps::with_weights(&[1, 1, 1]);
    let flow = flow(port_of_a(&maps, ACK), ACK);
    mark(&mut maps, &flow);
    hold(&maps, &flow, (C, 0, 0));
    assert_eq!(goes(&maps, &flow, false), Ok(A));
    assert_eq!(goes(&maps, &flow, true), Ok(C));
}

#[test]
fn what_opens_a_connection_of_quic_follows_no_entry_to_a_retired_backend() {
    for (word, flags, expect) in [
        (RETIRED, Flow::OPENS, A),
        (RETIRED, 0, B),
        // It may be sent again.
        (DRAINING, Flow::OPENS, B),
    ] {
        let mut maps = HostMaps::with_weights(&[1, 1, 1]);
        maps.set_word(1, word);
        let mut flow = flow(port_of_a(&maps, UDP), UDP);
        mark(&mut maps, &flow);
        hold(&maps, &flow, (B, 0, 0));
        flow.tcp_flags = flags;
        let service = maps.service(true, SERVICE_UDP_FLOW);
        let picked = pick(&maps, &service, &flow, hash_of(&maps, &flow));
        assert_eq!(picked.map(|picked| picked.row), Ok(expect), "{word:?} {flags}");
    }
}

#[test]
fn without_room_a_flow_goes_where_a_later_miss_would() {
    for (word, new, old) in [(DRAINING, B, A), (RETURNING, A, B)] {
        let maps = HostMaps::with_weights(&[1, 1, 1]);
        maps.set_word(0, word);
        let port = port_of_a(&maps, SYN);
        assert_eq!(goes(&maps, &flow(port, SYN), false), Ok(new));
        maps.flows.borrow_mut().clear();
        maps.flows_refused.set(true);
        for flags in [SYN, ACK] {
            maps.take_events();
            assert_eq!(goes(&maps, &flow(port, flags), false), Ok(old), "{flags}");
            assert_eq!(maps.take_events(), [Rehash, FlowLookup, Event::FlowInsertFailed]);
        }
    }
}

#[test]
fn without_room_a_datagram_goes_where_the_next_one_would() {
    const UNTIL: u32 = 1500;
    // The clock, and where every datagram goes while A drains.
    for (now, expect) in [(UNTIL - 1, A), (UNTIL, B)] {
        let maps = HostMaps::with_weights(&[1, 1, 1]);
        maps.set_word(0, DRAINING);
        maps.flows_refused.set(true);
        maps.now.set(now);
        let port = port_of_a(&maps, UDP);
        let service = Service { udp_until: UNTIL, ..maps.service(false, SERVICE_UDP_FLOW) };
        for _ in 0..2 {
            let flow = flow(port, UDP);
            let picked = pick(&maps, &service, &flow, hash_of(&maps, &flow));
            assert_eq!(picked.map(|picked| picked.row), Ok(expect), "at {now}");
        }
    }
}

#[test]
fn a_flow_is_kept_fresh_but_not_by_resets() {
    let maps = HostMaps::with_weights(&[1, 1, 1]);
    maps.set_word(0, DRAINING);
    let port = port_of_a(&maps, ACK);
    let seen_after = |flags: u8, wait: u32| {
        hold(&maps, &flow(port, ACK), (A, 0, 0));
        maps.now.set(THEN + wait);
        goes(&maps, &flow(port, flags), false).unwrap();
        maps.flow(&flow(port, ACK).key).unwrap().last_seen - THEN
    };
    assert_eq!(seen_after(ACK, TOUCH_SECONDS - 1), 0, "not written for each packet");
    assert_eq!(seen_after(ACK, TOUCH_SECONDS), TOUCH_SECONDS);
    assert_eq!(seen_after(FIN, 1), 1, "a change of state is written, and the time with it");
    assert_eq!(seen_after(RST, 100), 0);
    assert_eq!(seen_after(SYN, 100), 100);
}

#[test]
fn an_exhausted_walk_takes_the_services_spare() {
    let mut maps = HostMaps::with_weights(&[1, 1, 1]);
    (0..3).for_each(|i| maps.set_word(i, FAILED));
    maps.spares.fill(0x0003_0003_0003_0003);
    for port in 1024..1100 {
        let flow = flow(port, SYN);
        assert_eq!(goes(&maps, &flow, false), Ok(SPARE));
        assert_eq!(held(&maps, &flow), Some((SPARE, 0, 0)), "recorded: spares change freely");
    }
    maps.set_word(3, RETIRED);
    assert_eq!(goes(&maps, &flow(2000, SYN), false), NOBODY);
}

/// Which of 30,000 flows at home at A stay there at a share.
fn taken(share: u16) -> Vec<bool> {
    let maps = HostMaps::with_weights(&[1, 1, 1]);
    let service = maps.service(false, 0);
    maps.set_word(0, Word::new(share, share, 0, 0, true, false));
    let flows = (0..u16::MAX).map(|port| flow(port, SYN));
    let hashes = flows.map(|flow| (flow, hash_of(&maps, &flow)));
    let at_home = hashes.filter(|&(_, hash)| {
        index_of(&maps, service.table, fast_range(hash, SLOTS)) == Some(A - FIRST)
    });
    let first = |hash| takes(share, share_bits(hash)) == 1;
    at_home
        .map(|(flow, hash)| {
            let row = pick(&maps, &service, &flow, hash).map(|picked| picked.row).unwrap();
            // Who is refused at home may come back to A by a later step, with other bits.
            assert!(!first(hash) || row == A);
            first(hash)
        })
        .collect()
}

#[test]
fn a_share_takes_its_part_of_the_flows_and_a_larger_one_takes_them_too() {
    let mut before = taken(0);
    assert!(!before.contains(&true), "a share of 0 takes nobody");
    for share in [1u16, 655, 6_553, 16_384, 32_768, 49_152, 65_000, u16::MAX] {
        let now = taken(share);
        let n = now.len() as f64;
        let count = now.iter().filter(|&&t| t).count() as f64;
        let p = f64::from(share) / 65_536.0;
        let sigma = (n * p * (1.0 - p)).sqrt();
        println!("share {p:.4}: {:.4} of {n} flows", count / n);
        assert!((count - n * p).abs() <= 4.0 * sigma + 1.0, "share {p}: {count} of {n}");
        let stays = before.iter().zip(&now).all(|(&before, &now)| now || !before);
        assert!(stays, "a flow taken at a smaller share is refused at {share}");
        before = now;
    }
    assert!(!before.contains(&false), "the full share takes everybody");
}

#[test]
fn what_the_daemon_is_told_is_what_a_packet_without_entry_gets() {
    for case in CASES.iter().filter(|case| case.held.is_none() && case.packet == ACK) {
        let maps = maps_for(case);
        let flow = flow(port_of_a(&maps, ACK), ACK);
        let service = maps.service(false, 0);
        let answer = answer_without_entry(&maps, &service, hash_of(&maps, &flow));
        assert_eq!(answer.map(|a| a.row), case.goes.ok(), "{}", case.what);
        assert_eq!(answer.is_some_and(|a| a.touched), case.leaves.is_some(), "{}", case.what);
    }
}

#[test]
fn in_a_settled_failure_every_packet_of_a_flow_gets_the_same_answer_without_state() {
    let maps = HostMaps::with_weights(&[1, 1, 2, 5]);
    maps.set_word(3, FAILED);
    for port in 0..2000 {
        let row = goes(&maps, &flow(port, SYN), false).unwrap();
        assert_ne!(row, FIRST + 3);
        assert!([ACK, FIN, RST].iter().all(|&f| goes(&maps, &flow(port, f), false) == Ok(row)));
    }
    assert!(maps.flows.borrow().is_empty());
    assert!(maps.take_events().iter().all(|event| *event == Rehash));
}
