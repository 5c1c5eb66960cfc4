//! The world: clients, servers, and one balancer with its daemon.
//!
//! One queue of packets, one of events, one clock. Every change makes some processors lag for
//! 20–50 ms, in which their packets begin in the past, and sends a burst of packets into it.

use std::cell::UnsafeCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::ptr::NonNull;

use bytemuck::Zeroable;
use lb_common::abi::{FlowKey, NatEntry, STATE_CLOSING};
use lb_common::frame::HostFrame;
use lb_common::ip::V4;
use lb_common::maps::NatSlot;
use lb_common::path::{Arrival, Sent, balance, from_word, quoted};
use lb_common::verdict::{Event, Verdict};

use super::cpu::Cpu;
use super::daemon::{Daemon, MS, SECOND};
use super::oracle::{Excuse, Found, Servers};
use super::others::{Design, Other};
use super::random::Random;
use super::site::{Kind, Scripted, Site};
use super::wire::{self, ACK, FIN, RST, SYN, TCP, Target, Tuple, Way};
use crate::control::coverage;
use crate::dataplane::memory;

pub(super) const CPUS: usize = 32;

/// What a run is made of.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) connections: u64,
    /// Room of the flow table.
    pub(super) flows: u32,
    /// New connections per second.
    pub(super) rate: u64,
    /// Mean time between events; zero is never.
    pub(super) pause: u64,
    /// Whether there are times when flows cannot be recorded.
    pub(super) refusals: bool,
    pub(super) design: Design,
    /// SYNs per second that come to nothing, of addresses that are no client's.
    pub(super) flood: u64,
    /// In order of time.
    pub(super) script: Vec<(u64, Scripted)>,
    /// Connections are short, and most have a packet while a change becomes visible.
    pub(super) calm: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Sends its first packet, or the same again.
    Opening,
    Open,
    /// Has sent a FIN; the other side has more to say.
    Closing,
    Over,
}

struct Conn {
    /// Raised when another connection takes the place.
    generation: u32,
    site: usize,
    tuple: Tuple,
    key: FlowKey,
    cpu: usize,
    phase: Phase,
    target: Option<Target>,
    deaths: u32,
    last: u64,
    left: u32,
    sent: u32,
    pace: u64,
    /// Changes before its last packet.
    changes: u64,
    excuse: Option<(Excuse, u64)>,
    /// The ports were used before, by a connection whose end nobody saw.
    haunted: bool,
    /// Will be silent until its next packet.
    silent: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Processor {
    floor: u64,
    lags_until: u64,
}

/// The parts of the path that frames are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Flow,
    Quoted,
}

/// What became of one packet.
struct Outcome {
    end: Result<Target, Verdict>,
    frame: Vec<u8>,
    recorded: bool,
    refused: bool,
    exhausted: bool,
    /// Its connection id named the server.
    named: bool,
    stale: bool,
    /// Of its last read.
    position: u64,
}

pub(super) struct World<const BROKEN: usize> {
    plan: Plan,
    pub(super) daemon: Daemon,
    pub(super) sites: Vec<Site>,
    pub(super) servers: Servers,
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) found: Found,
    /// Until then inserts may fail.
    pub(super) refuses_until: u64,
    conns: Vec<Conn>,
    free: Vec<u32>,
    /// Time, connection, its generation, whether it is out of turn.
    queue: BinaryHeap<Reverse<(u64, u32, u32, bool)>>,
    /// Ports that may be used again, and whether an end was seen.
    used: Vec<(usize, Tuple, bool)>,
    /// Ports of a connection that died with its server: its client tries again.
    reconnects: Option<(usize, Tuple)>,
    cpus: [Processor; CPUS],
    changes: u64,
    newest: u64,
    settled_at: u64,
    next_tuple: u32,
    draft: Box<UnsafeCell<NatEntry>>,
    other: Other,
    slots_for: fn(usize) -> u32,
    pub(super) phase: usize,
}

impl<const BROKEN: usize> World<BROKEN> {
    pub(super) fn new(plan: Plan, sites: Vec<Site>, slots_for: fn(usize) -> u32) -> Self {
        let mut daemon = Daemon::new(plan.seed, plan.flows, slots_for);
        let services: Vec<_> = sites.iter().map(|site| site.service.clone()).collect();
        daemon.start(&services);
        let mut servers = Servers::default();
        for backend in sites.iter().flat_map(|site| &site.backends) {
            servers.add(backend.number, true, 0);
        }
        Self {
            random: Random::new(plan.seed),
            newest: memory::position(),
            daemon,
            sites,
            servers,
            now: 0,
            found: Found::default(),
            refuses_until: 0,
            conns: Vec::new(),
            free: Vec::new(),
            queue: BinaryHeap::new(),
            used: Vec::new(),
            reconnects: None,
            cpus: [Processor::default(); CPUS],
            changes: 0,
            settled_at: 0,
            next_tuple: 0,
            draft: Box::new(UnsafeCell::new(NatEntry::zeroed())),
            other: Other::new(plan.seed, plan.flows),
            slots_for,
            phase: 0,
            plan,
        }
    }

    /// Runs until all connections have begun, and events have come all the while.
    pub(super) fn run(mut self) -> Found {
        let never = |rate: u64| if rate == 0 { u64::MAX } else { 2 * SECOND };
        let (mut arrival, mut event, mut flood) =
            (MS, never(self.plan.pause), never(self.plan.flood));
        let mut script = std::mem::take(&mut self.plan.script).into_iter().peekable();
        self.other.rebuild(&self.sites, &self.servers, self.slots_for);
        while self.found.connections < self.plan.connections {
            let packet = self.queue.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let act = self.next_act();
            let daemon = self.daemon.next(self.now);
            let next = script.peek().map_or(u64::MAX, |(at, _)| *at);
            let first = packet.min(act).min(daemon).min(arrival).min(event).min(next).min(flood);
            self.now = first.max(self.now);
            if self.newest != self.daemon.floor && self.now > self.settled_at {
                self.daemon.maps.forget_history();
                self.daemon.floor = self.newest;
            }
            self.daemon.set_clock(self.now);
            if daemon <= self.now {
                self.daemon.tick(self.now);
                self.notice();
            } else if let Some((_, what)) = script.next_if(|(at, _)| *at <= self.now) {
                self.follow(what);
                self.notice();
            } else if act <= self.now {
                self.act_due();
                self.notice();
            } else if event <= self.now {
                self.event();
                self.notice();
                event = self.now + self.random.around(self.plan.pause);
            } else if flood <= self.now {
                self.flood();
                flood = self.now + self.random.around(SECOND / self.plan.flood);
            } else if arrival <= self.now {
                self.open(self.now);
                arrival = self.now + self.random.around(SECOND / self.plan.rate);
            } else {
                self.turn();
            }
        }
        self.found.sweeps = self.daemon.swept;
        self.found.uncovered_live = self.daemon.services.iter().map(|r| r.violations).sum();
        self.found
    }

    /// What follows from the daemon's having changed something.
    fn notice(&mut self) {
        let newest = memory::position();
        if newest == self.newest {
            return;
        }
        self.newest = newest;
        self.changes += 1;
        if self.plan.design != Design::Exceptions {
            self.other.rebuild(&self.sites, &self.servers, self.slots_for);
        }
        if trace().is_some() {
            eprintln!("{} µs: changed, position {newest}", self.now);
        }
        for cpu in &mut self.cpus {
            if self.random.permille(700) {
                cpu.lags_until = self.now + self.random.between(20, 50) * MS;
            }
        }
        self.settled_at = self.now + 50 * MS;
        if !self.conns.is_empty() {
            let burst = if self.plan.calm { 1000 } else { 40 };
            for _ in 0..self.conns.len().min(burst) {
                let id = self.random.below(self.conns.len() as u64) as usize;
                let conn = &self.conns[id];
                if matches!(conn.phase, Phase::Open | Phase::Closing) && !conn.silent {
                    let at = self.now + self.random.below(50 * MS);
                    self.queue.push(Reverse((at, id as u32, conn.generation, true)));
                }
            }
        }
        for _ in 0..self.random.below(3) {
            let at = self.now + self.random.below(50 * MS);
            self.open(at);
        }
        if self.random.permille(300) {
            self.daemon.sweep_by(self.now + self.random.below(20 * MS));
        }
        self.check_coverage();
    }

    /// So many connections begin at once.
    pub(super) fn burst(&mut self, count: u64) {
        for _ in 0..count {
            let at = self.now + self.random.below(40 * MS);
            self.open(at);
        }
    }

    pub(super) fn may_refuse(&self) -> bool {
        self.plan.refusals
    }

    fn check_coverage(&mut self) {
        let idle = |number: u32| {
            let running = self.daemon.services.iter().find(|r| r.tables.number == number);
            running.map_or(0, |r| r.config.idle_timeout.as_secs() as u32)
        };
        let uncovered = coverage::violations(&self.daemon.maps, idle);
        self.found.largest_flows =
            self.found.largest_flows.max(self.daemon.maps.flows.memory().len() as u64);
        if let Some(key) = uncovered.first() {
            let now = self.now;
            self.found.tell(|| format!("{now} µs: not covered: {key:?}"));
        }
        self.found.uncovered += uncovered.len() as u64;
    }

    /// A client opens a connection, soon.
    fn open(&mut self, at: u64) {
        self.found.connections += 1;
        let again = self.random.permille(300) && !self.used.is_empty();
        let (site, tuple, haunted) = if let Some((site, tuple)) = self.reconnects.take() {
            (site, tuple, true)
        } else if again {
            let which = self.random.below(self.used.len() as u64) as usize;
            let (site, tuple, ended) = self.used.swap_remove(which);
            (site, tuple, !ended)
        } else {
            let site = self.choose_site();
            self.next_tuple += 1;
            let n = self.next_tuple;
            let tuple = Tuple {
                source: Ipv4Addr::from(0xc612_0000 + n / 50_000),
                destination: self.sites[site].vip,
                ports: (10_000 + (n % 50_000) as u16, 443),
                protocol: self.sites[site].kind.protocol(),
            };
            (site, tuple, false)
        };
        self.found.kinds.entry(self.sites[site].kind.name()).or_default().connections += 1;
        let paces = if self.plan.calm { 2 } else { 3 };
        let pace = [30 * MS, SECOND, 4 * SECOND][self.random.below(paces) as usize];
        let id = self.free.pop().unwrap_or(self.conns.len() as u32);
        let generation = self.conns.get(id as usize).map_or(0, |old| old.generation + 1);
        let conn = Conn {
            generation,
            site,
            tuple,
            key: key(&tuple),
            cpu: self.random.below(CPUS as u64) as usize,
            phase: Phase::Opening,
            target: None,
            deaths: 0,
            last: at,
            left: 2 + self.random.around(8) as u32,
            sent: 0,
            pace,
            changes: self.changes,
            excuse: None,
            haunted,
            silent: false,
        };
        // A tuple's packets come to one processor, connection after connection.
        let conn =
            Conn { cpu: (conn.key.ports as usize ^ conn.key.ports as usize >> 11) % CPUS, ..conn };
        if id as usize == self.conns.len() {
            self.conns.push(conn);
        } else {
            self.conns[id as usize] = conn;
        }
        self.queue.push(Reverse((at, id, generation, false)));
    }

    fn choose_site(&mut self) -> usize {
        let total: u64 = self.sites.iter().map(|site| site.traffic).sum();
        let mut at = self.random.below(total);
        for (i, site) in self.sites.iter().enumerate() {
            if at < site.traffic {
                return i;
            }
            at -= site.traffic;
        }
        0
    }

    /// The next packet of the queue.
    fn turn(&mut self) {
        let Some(Reverse((_, id, generation, extra))) = self.queue.pop() else { return };
        let conn = &self.conns[id as usize];
        if conn.generation != generation || (extra && (conn.silent || conn.phase == Phase::Opening))
        {
            return;
        }
        let id = id as usize;
        let goes_on = match conn.phase {
            Phase::Opening => self.first_packet(id),
            Phase::Open | Phase::Closing => self.later_packet(id, extra),
            Phase::Over => true,
        };
        if !goes_on {
            self.end(id, false);
        }
    }

    fn end(&mut self, id: usize, seen: bool) {
        let conn = &mut self.conns[id];
        conn.generation += 1;
        conn.phase = Phase::Over;
        self.free.push(id as u32);
        if self.used.len() < 3000 {
            self.used.push((conn.site, conn.tuple, seen));
        } else {
            let at = self.random.below(3000) as usize;
            self.used[at] = (conn.site, conn.tuple, seen);
        }
    }

    fn first_packet(&mut self, id: usize) -> bool {
        let (site, flags) = (self.conns[id].site, SYN);
        // What the flow table holds may be of a connection whose end was no matter to it then.
        let entry = self.daemon.maps.flows.memory().get(&self.conns[id].key);
        self.conns[id].haunted |= entry.is_some_and(|entry| entry.state & STATE_CLOSING == 0);
        let out = self.send(id, flags, None);
        let kind = self.sites[site].kind;
        let target = match out.end {
            Ok(target) => target,
            Err(verdict) => {
                let is_down = self.sites[site].is_down(&self.servers, self.now);
                if !is_down && verdict != Verdict::DropNoBackend {
                    self.wrong(id, &out, "a new connection was dropped");
                }
                return false;
            }
        };
        let conn = &mut self.conns[id];
        let again = conn.target.is_some();
        let stays = conn.target == Some(target);
        // One that could not be recorded is new again.
        let differs = again && !stays && conn.excuse.is_none();
        let kept = !differs || conn.changes != self.changes || out.stale;
        if !kept {
            self.wrong(id, &out, "a retransmitted SYN went elsewhere");
            return false;
        }
        if self.servers.get(target.0).is_none_or(|server| !server.alive) {
            // It died under this packet.
            self.found.died += 1;
            return false;
        }
        let conn = &mut self.conns[id];
        conn.target = Some(target);
        conn.deaths = self.servers.deaths(target.0);
        if !stays {
            self.check_place(id, target, &out);
        }
        self.note(id, &out);
        if kind == Kind::Packet {
            return false;
        }
        if kind == Kind::Tcp && !again && self.random.permille(30) {
            self.conns[id].last = self.now;
            self.later(id, 200 * MS);
            return true;
        }
        if !self.reply(id, &out, SYN | ACK) {
            return false;
        }
        self.conns[id].phase = Phase::Open;
        let soon = self.random.between(MS, 60 * MS);
        self.later(id, soon);
        true
    }

    /// A new connection goes only where new ones shall go.
    fn check_place(&mut self, id: usize, target: Target, out: &Outcome) {
        let conn = &self.conns[id];
        let site = &self.sites[conn.site];
        let settled = |since: u64| self.now > since + 80 * MS;
        let wants =
            |number: u32| self.servers.get(number).is_none_or(|s| s.takes_new || !settled(s.since));
        let some_takes = site
            .backends
            .iter()
            .any(|b| self.servers.get(b.number).is_some_and(|s| s.takes_new && settled(s.since)));
        let free = wants(target.0) || !some_takes || out.refused || out.exhausted || out.stale;
        let is_there = site.backends.iter().any(|b| b.number == target.0);
        let free = free || (conn.haunted && is_there);
        // To a datagram of a flow without an entry, nobody can tell that it is the first.
        if !free && site.kind != Kind::Flow {
            self.found.misplaced += 1;
            let (now, tuple, found) = (self.now, conn.tuple, target);
            self.found.tell(|| format!("{now} µs: misplaced: {tuple:?} to {found:?}"));
        }
    }

    fn later_packet(&mut self, id: usize, extra: bool) -> bool {
        let conn = &self.conns[id];
        let Some(target) = conn.target else { return false };
        let site = &self.sites[conn.site];
        let is_tcp = site.kind == Kind::Tcp;
        let died = self.servers.deaths(target.0) != conn.deaths;
        let flags = if !is_tcp {
            0
        } else if extra || conn.left > 1 || conn.phase == Phase::Closing {
            // Forged resets mean nothing, and are nobody's sign of life.
            if extra && self.random.permille(50) { RST } else { ACK }
        } else {
            FIN | ACK
        };
        // From the handshake's end on a connection of QUIC names its server, if that has a name.
        let named = (site.kind == Kind::Quic && conn.sent > 2).then_some(target.0);
        let out = self.send(id, flags, named);
        if died {
            // Its server answers with a reset, or nobody does.
            self.found.died += 1;
            if self.random.permille(300) {
                let conn = &mut self.conns[id];
                (conn.generation, conn.phase) = (conn.generation + 1, Phase::Over);
                self.reconnects = Some((conn.site, conn.tuple));
                self.free.push(id as u32);
                return true;
            }
            return false;
        }
        if out.end != Ok(target) {
            self.lost(id, &out);
            return false;
        }
        if flags & RST == 0 {
            self.note(id, &out);
        }
        if self.random.permille(300) && !self.reply(id, &out, ACK) {
            return false;
        }
        if self.random.permille(30) && !self.error(id, &out) {
            return false;
        }
        if extra {
            return true;
        }
        let conn = &mut self.conns[id];
        conn.left = conn.left.saturating_sub(1);
        if flags & FIN != 0 {
            return self.half_closed(id, &out);
        }
        if conn.left == 0 {
            // Nobody sees that it is over: its FIN, if any, was before what came last.
            self.end(id, false);
            return true;
        }
        let limit = self.limit(id);
        let conn = &self.conns[id];
        let next = if self.random.permille(35) {
            self.random.between(limit / 2, limit - SECOND / 20)
        } else if self.random.permille(6) {
            self.random.between(limit + SECOND, 3 * limit)
        } else {
            self.random.around(conn.pace).min(limit - SECOND / 20)
        };
        self.conns[id].silent = next > 3 * SECOND;
        self.later(id, next);
        true
    }

    /// A client has sent its last data, as one of several kinds of client does.
    fn half_closed(&mut self, id: usize, out: &Outcome) -> bool {
        match self.random.below(4) {
            // The other side goes on for a while.
            0 | 1 => {
                self.conns[id].phase = Phase::Closing;
                self.conns[id].left = 1 + self.random.around(4) as u32;
                let limit = self.limit(id);
                let next = self.random.around(3 * SECOND).min(limit - SECOND);
                self.later(id, next);
                true
            }
            2 => {
                self.send(id, RST, None);
                self.end(id, true);
                true
            }
            _ => {
                self.reply(id, out, FIN | ACK);
                self.end(id, true);
                true
            }
        }
    }

    fn later(&mut self, id: usize, wait: u64) {
        let conn = &mut self.conns[id];
        conn.last = self.now;
        self.queue.push(Reverse((self.now + wait, id as u32, conn.generation, false)));
    }

    /// How long a connection may be silent.
    fn limit(&self, id: usize) -> u64 {
        let conn = &self.conns[id];
        let service = &self.sites[conn.site].service;
        let idle = match self.sites[conn.site].kind {
            Kind::Tcp => service.idle_timeout,
            _ => service.idle_timeout.min(service.udp_timeout),
        };
        idle.as_micros() as u64
    }

    /// The way back, where it leads through the balancer.
    fn reply(&mut self, id: usize, out: &Outcome, flags: u8) -> bool {
        let Ok((_, Way::Nat(_))) = out.end else { return true };
        let tuple = self.conns[id].tuple;
        let Some(sent) = wire::tuple(&out.frame) else { return true };
        let frame = sent.reversed().frame(flags, &[0; 24]);
        let cpu = (self.random.below(CPUS as u64)) as usize;
        // The answer came to be after the question had left.
        self.cpus[cpu].floor = self.cpus[cpu].floor.max(out.position);
        self.found.went("replies, translated back");
        let back = self.balance(cpu, &frame, 3, tuple.destination);
        let arrived = wire::tuple(&back.frame) == Some(tuple.reversed());
        if back.end.is_err() || !arrived {
            self.wrong(id, &back, "a reply went astray");
            return false;
        }
        true
    }

    /// Remembers what a packet did to its connection's record.
    fn note(&mut self, id: usize, out: &Outcome) {
        let is_recorded = self.daemon.maps.flows.memory().get(&self.conns[id].key).is_some();
        let conn = &mut self.conns[id];
        conn.sent += 1;
        conn.last = self.now;
        // To one that saw an older state it is as if the change came after.
        conn.changes = self.changes - u64::from(out.stale);
        conn.silent = false;
        if out.recorded || is_recorded {
            conn.excuse = None;
        }
        if out.refused {
            // One that saw an older state than others saw a change, in effect.
            // A datagram becomes the first of a flow by mere time.
            let timeless = out.stale || conn.tuple.protocol != TCP;
            let since = if timeless { 0 } else { self.changes };
            conn.excuse = Some((Excuse::Refused, since));
        }
    }

    /// A packet of an established connection did not reach its server.
    fn lost(&mut self, id: usize, out: &Outcome) {
        let conn = &self.conns[id];
        let silent = self.now - conn.last > self.limit(id);
        let excuse = match conn.excuse {
            _ if silent => Some(Excuse::Silent),
            Some((Excuse::Refused, since)) if since == self.changes => None,
            Some((excuse, _)) => Some(excuse),
            // When a change begins is in the record, which it read before the words.
            None if out.stale && conn.tuple.protocol != TCP => Some(Excuse::UnderWay),
            None => None,
        };
        match excuse {
            Some(excuse) => *self.found.excused.entry(excuse.name()).or_default() += 1,
            None => self.wrong(id, out, "sent elsewhere"),
        }
    }

    fn wrong(&mut self, id: usize, out: &Outcome, what: &str) {
        self.found.misdirected += 1;
        let conn = &self.conns[id];
        let (now, last) = (self.now, conn.last);
        let site = &self.sites[conn.site];
        let (name, tuple, phase) = (&site.service.name, conn.tuple, conn.phase);
        let entry = self.daemon.maps.flows.memory().get(&conn.key);
        let (was, is, stale) = (conn.target, &out.end, out.stale);
        self.found.tell(|| {
            format!(
                "{now} µs: {what}: {name} {tuple:?} {phase:?}, was {was:?} at {last}, is {is:?}, \
                 stale {stale}, entry {entry:?}"
            )
        });
    }

    /// Sends a packet of a connection.
    fn send(&mut self, id: usize, flags: u8, named: Option<u32>) -> Outcome {
        self.found.packets += 1;
        let conn = &self.conns[id];
        let payload = match self.sites[conn.site].kind {
            Kind::Quic if flags == SYN => wire::quic(None),
            Kind::Quic => wire::quic(Some(named.unwrap_or(0x00ff_ffff))),
            _ => [0; 24],
        };
        let frame = conn.tuple.frame(flags, &payload);
        let (cpu, vip) = (conn.cpu, conn.tuple.destination);
        let kind = self.sites[conn.site].kind.name();
        let out = self.balance(cpu, &frame, 2, vip);
        let sent = self.found.kinds.entry(kind).or_default();
        sent.packets += 1;
        sent.stale += u64::from(out.stale);
        match out.end {
            Ok(_) if out.named => self.found.went("by a server id"),
            Ok((_, way)) => self.found.went(way.name()),
            Err(Verdict::DropNoBackend) => self.found.unserved += 1,
            Err(_) => {}
        }
        out
    }

    /// A router tells the server that something it sent to a client was too big.
    fn error(&mut self, id: usize, out: &Outcome) -> bool {
        let conn = &self.conns[id];
        let is_flow = matches!(self.sites[conn.site].kind, Kind::Tcp | Kind::Flow);
        let Some((number, _)) = conn.target.filter(|_| is_flow) else { return true };
        if self.plan.design != Design::Exceptions {
            return true;
        }
        let tuple = conn.tuple;
        let cpu = self.random.below(CPUS as u64) as usize;
        // As with a reply.
        self.cpus[cpu].floor = self.cpus[cpu].floor.max(out.position);
        self.found.went("ICMP errors");
        let told = self.take(Part::Quoted, cpu, &wire::too_big(&tuple), 2, tuple.destination);
        if told.end.is_ok_and(|(to, _)| to == number) {
            return true;
        }
        self.lost(id, &told);
        false
    }

    /// A SYN that comes to nothing.
    fn flood(&mut self) {
        let site = &self.sites[0];
        let tuple = Tuple {
            source: Ipv4Addr::from(0x6400_0000 | self.random.below(1 << 24) as u32),
            destination: site.vip,
            ports: (self.random.between(1024, 65_535) as u16, 443),
            protocol: TCP,
        };
        let frame = tuple.frame(SYN, &[]);
        let cpu = self.random.below(CPUS as u64) as usize;
        self.balance(cpu, &frame, 2, tuple.destination);
    }

    /// Another design takes a frame.
    fn balance_otherwise(&mut self, frame: &[u8]) -> Outcome {
        let key = wire::tuple(frame).map(|tuple| key(&tuple)).unwrap();
        let went = self.other.send(self.plan.design, &key, &self.servers);
        self.found.lookups += went.lookups;
        self.found.inserts += went.inserts;
        self.found.phases[self.phase].packets += 1;
        self.found.phases[self.phase].lookups += went.lookups;
        Outcome {
            end: went.to.map(|number| (number, Way::Direct)).ok_or(Verdict::DropNoBackend),
            frame: frame.to_vec(),
            recorded: false,
            refused: false,
            exhausted: false,
            named: false,
            stale: false,
            position: self.newest,
        }
    }

    /// The balancer takes a frame.
    fn balance(&mut self, cpu: usize, frame: &[u8], ingress: u32, vip: Ipv4Addr) -> Outcome {
        self.take(Part::Flow, cpu, frame, ingress, vip)
    }

    fn take(
        &mut self,
        part: Part,
        cpu: usize,
        frame: &[u8],
        ingress: u32,
        vip: Ipv4Addr,
    ) -> Outcome {
        if self.plan.design != Design::Exceptions {
            return self.balance_otherwise(frame);
        }
        let low = self.cpus[cpu].floor.max(self.daemon.floor);
        let lags = self.now < self.cpus[cpu].lags_until && low < self.newest;
        let begins = match (lags, lags && self.random.permille(700)) {
            (true, true) => low,
            (true, false) => memory::point(low, self.newest, |n| self.random.below(n)),
            _ => self.newest,
        };
        let seed = self.random.next();
        // SAFETY: lives as long as the world, and is used by one packet at a time.
        let draft = unsafe { NatSlot::new(NonNull::new_unchecked(self.draft.get())) };
        let maps = std::sync::Arc::clone(&self.daemon.maps);
        let ms = Daemon::program_ms(self.now);
        let positions = (begins, self.newest);
        let mut view = Cpu::<BROKEN>::new(&maps, positions, ms, Random::new(seed), draft);
        if self.now < self.refuses_until {
            view.refuses = self.random.permille(300);
            view.limited = self.random.permille(200);
        }
        let original = frame.to_vec();
        let mut frame = HostFrame::new(frame);
        let arrival = Arrival { ifindex: ingress, vlan: 0 };
        let sent = from_word(match part {
            Part::Flow => balance::<V4, _, _>(&view, &mut frame, arrival.word()),
            Part::Quoted => quoted::<V4, _, _>(&view, &mut frame),
        });
        self.cpus[cpu].floor = self.cpus[cpu].floor.max(view.position());
        let counted = &view.counted;
        self.found.stale += u64::from(begins != self.newest);
        self.found.lookups += counted.of(Event::FlowLookup);
        self.found.phases[self.phase].packets += 1;
        self.found.phases[self.phase].lookups += counted.of(Event::FlowLookup);
        self.found.inserts += counted.of(Event::FlowInsert);
        self.found.exhausted += counted.of(Event::WalkExhausted);
        let refused =
            counted.of(Event::FlowInsertFailed) + counted.of(Event::FlowInsertLimited) > 0;
        self.found.refused += u64::from(refused);
        let end = sent.and_then(|Sent { row, .. }| match row {
            Sent::TO_CLIENT => Ok((0, Way::Direct)),
            _ => {
                maps.count_sent(row);
                wire::target(frame.bytes(), vip).ok_or(Verdict::DropInternal)
            }
        });
        if let Some(port) = trace() {
            let sent = wire::tuple(&original).map(|tuple| tuple.ports.0);
            if sent == Some(port) {
                let key = wire::tuple(&original).map(|tuple| key(&tuple)).unwrap();
                eprintln!(
                    "{} µs: packet flags {:x} -> {end:?} {:?} begins {begins} ends {} newest {} entry {:?}",
                    self.now,
                    original.get(47).copied().unwrap_or(0),
                    Event::ALL.iter().filter(|e| counted.of(**e) > 0).collect::<Vec<_>>(),
                    view.position(),
                    self.newest,
                    self.daemon.maps.flows.memory().get(&key)
                );
            }
        }
        let outcome = Outcome {
            end,
            frame: frame.bytes().to_vec(),
            recorded: counted.of(Event::FlowInsert) > 0,
            refused,
            exhausted: counted.of(Event::WalkExhausted) > 0,
            named: counted.of(Event::QuicServerId) > 0,
            stale: begins != self.newest,
            position: view.position(),
        };
        drop(view);
        let evicted = maps.flows.memory().end_packet();
        maps.nat.memory().end_packet();
        if !evicted.is_empty() {
            self.found.evictions += evicted.len() as u64;
            for key in evicted {
                // Few are alive; the search is no matter.
                let changes = self.changes;
                for conn in self.conns.iter_mut().filter(|conn| conn.key == key) {
                    conn.excuse = Some((Excuse::Evicted, changes));
                }
            }
        }
        outcome
    }
}

/// The source port whose packets are to be told, by `HOLDFAST_TRACE`.
fn trace() -> Option<u16> {
    static PORT: std::sync::OnceLock<Option<u16>> = std::sync::OnceLock::new();
    *PORT.get_or_init(|| std::env::var("HOLDFAST_TRACE").ok()?.parse().ok())
}

/// Tells of an event while some port's packets are told.
pub(super) fn tell(what: impl FnOnce() -> String) {
    if trace().is_some() {
        eprintln!("{}", what());
    }
}

/// The flow's key, as the program has it.
fn key(tuple: &Tuple) -> FlowKey {
    let word = |address: Ipv4Addr| [u32::from_ne_bytes(address.octets()), 0, 0, 0];
    FlowKey {
        source: word(tuple.source),
        destination: word(tuple.destination),
        ports: lb_common::abi::join_ports(tuple.ports.0.to_be(), tuple.ports.1.to_be()),
        kind: FlowKey::kind_of(4, tuple.protocol),
    }
}
