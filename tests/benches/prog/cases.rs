//! What is measured.

use lb_common::abi::Word;

use crate::driver::{Action, Floor};
use crate::frames::{
    ACK, Ends, Payload, SYN, Template, errors, large, replies, to_vips, tunnelled,
};
use crate::world::{Mode, Set};

/// What the backends of a set are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// All take everything.
    Steady,
    /// So many are drained: a change under way.
    Draining(u32),
    /// So many failed.
    Down(u32),
    /// Every slot had another owner a moment ago.
    Shadowed,
}

impl State {
    /// The word of a backend that is not in the normal state.
    pub(crate) const fn word(self, server: u32) -> Word {
        match self {
            Self::Draining(_) => Word::new(0, Word::FULL, server, 0, true, false),
            Self::Down(_) => Word::new(0, 0, server, 0, false, false),
            Self::Steady | Self::Shadowed => {
                Word::new(Word::FULL, Word::FULL, server, 0, true, false)
            }
        }
    }

    pub(crate) const fn backends(self) -> u32 {
        match self {
            Self::Draining(count) | Self::Down(count) => count,
            Self::Steady | Self::Shadowed => 0,
        }
    }
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Syn,
    Udp,
    Quic,
    NatReply,
    IcmpError,
    Echo,
    TooBig,
    Miss,
    PortMiss,
    Decap { gue: bool },
    Floor(Floor),
}

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) kind: Kind,
    /// What is said after the kind: the state, or what else is special.
    pub(crate) state: State,
    pub(crate) set: Set,
    pub(crate) flows: u32,
}

const M: u32 = 16_381;
const M_LARGE: u32 = 65_537;
const K4: u32 = 1 << 12;
const K64: u32 = 1 << 16;
const M1: u32 = 1 << 20;
const M16: u32 = 1 << 24;

const fn set(mode: Mode, six: bool, services: u32, backends: u32, slots: u32) -> Set {
    Set { mode, six, services, backends, slots }
}

/// All cases; those that are compared most are next to each other.
pub(crate) fn all(quick: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |kind, state, set, flows| cases.push(Case { kind, state, set, flows });
    let one = |mode, six| set(mode, six, 1, 100, M);
    let many = |mode, six| set(mode, six, 64, 100, M);
    let steady = State::Steady;
    for flows in [1, K4, K64, M1, M16] {
        for floor in Floor::ALL {
            add(Kind::Floor(floor), steady, one(Mode::Ipip4, false), flows);
        }
    }
    for (six, mode) in [(false, Mode::Ipip4), (true, Mode::Ipip6)] {
        for kind in [Kind::Tcp, Kind::Udp] {
            add(kind, steady, one(mode, six), 1);
            for flows in [K4, K64, M1] {
                add(kind, steady, many(mode, six), flows);
            }
        }
        add(Kind::Syn, steady, many(mode, six), M1);
        add(Kind::Syn, steady, many(mode, six), M16);
    }
    for slots in [M, M_LARGE] {
        add(Kind::Tcp, steady, set(Mode::Ipip4, false, 64, 1000, slots), M1);
    }
    for (mode, six) in [(Mode::Ipip6, false), (Mode::Ipip4, true)] {
        add(Kind::Tcp, steady, one(mode, six), 1);
    }
    for (mode, six) in [
        (Mode::Gue4, false),
        (Mode::Gue6, true),
        (Mode::Dsr, false),
        (Mode::Dsr, true),
        (Mode::Nat, false),
        (Mode::Nat, true),
    ] {
        add(Kind::Tcp, steady, one(mode, six), 1);
        add(Kind::Tcp, steady, many(mode, six), M1);
        if mode == Mode::Nat {
            add(Kind::NatReply, steady, one(mode, six), 1);
            add(Kind::NatReply, steady, many(mode, six), M1);
            // Opened by the check; from then on retransmissions.
            add(Kind::Syn, steady, one(mode, six), K64);
        }
    }
    add(Kind::Quic, steady, one(Mode::Quic, false), 1);
    add(Kind::Quic, steady, many(Mode::Quic, false), M1);
    for six in [false, true] {
        let mode = if six { Mode::Ipip6 } else { Mode::Ipip4 };
        add(Kind::IcmpError, steady, one(mode, six), 1);
        add(Kind::IcmpError, steady, many(mode, six), K64);
        add(Kind::Echo, steady, one(mode, six), 1);
        add(Kind::TooBig, steady, one(mode, six), 1);
        add(Kind::Miss, steady, one(mode, six), 1);
        add(Kind::PortMiss, steady, one(mode, six), 1);
        add(Kind::Decap { gue: false }, steady, one(mode, six), 1);
        add(Kind::Decap { gue: true }, steady, one(mode, six), 1);
    }
    let ipip = many(Mode::Ipip4, false);
    add(Kind::Tcp, steady, many(Mode::Track, false), K64);
    add(Kind::Tcp, State::Draining(1), ipip, K64);
    add(Kind::Tcp, State::Draining(100), ipip, K64);
    add(Kind::Tcp, State::Shadowed, ipip, K64);
    add(Kind::Tcp, State::Down(1), ipip, K64);
    add(Kind::Tcp, State::Down(50), ipip, K64);
    if quick {
        cases.retain(|case| case.flows < M1 && case.set.slots == M);
    }
    cases
}

impl Kind {
    /// The packet's own name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "hit",
            Self::Syn => "syn",
            Self::Udp => "hit",
            Self::Quic => "server-id",
            Self::NatReply => "reply",
            Self::IcmpError => "icmp-error",
            Self::Echo => "echo",
            Self::TooBig => "packet-too-big",
            Self::Miss => "vip-miss",
            Self::PortMiss => "port-miss",
            Self::Decap { gue: false } => "decap-ipip",
            Self::Decap { gue: true } => "decap-gue",
            Self::Floor(floor) => floor.name(),
        }
    }
}

impl Case {
    pub(crate) fn kind_name(&self) -> String {
        let name = self.kind.name();
        match self.state {
            State::Steady => name.to_owned(),
            State::Draining(count) if count == self.set.backends => format!("{name}, all draining"),
            State::Draining(count) => format!("{name}, {count} draining"),
            State::Down(count) => format!("{name}, {count} down"),
            State::Shadowed => format!("{name}, in transition"),
        }
    }

    pub(crate) const fn mode(&self) -> &'static str {
        match self.kind {
            Kind::Floor(_) => "floor",
            Kind::Decap { .. } => "decap",
            Kind::Miss | Kind::PortMiss | Kind::Echo => "any",
            _ => self.set.mode.name(),
        }
    }

    pub(crate) const fn protocol(&self) -> &'static str {
        match self.kind {
            Kind::Udp | Kind::Quic => "udp",
            Kind::IcmpError | Kind::Echo => "icmp",
            _ => "tcp",
        }
    }

    /// For people, and to choose cases by.
    pub(crate) fn name(&self) -> String {
        let family = if self.set.six { "ipv6" } else { "ipv4" };
        let (mode, protocol, kind) = (self.mode(), self.protocol(), self.kind_name());
        let Set { services, backends, slots, .. } = self.set;
        let flows = self.flows;
        format!("{mode} {family} {protocol} {kind} flows={flows} {services}x{backends} m={slots}")
    }

    /// Its packets, to the set's VIPs from `vip` on.
    pub(crate) fn template(&self, vip: u32) -> Template {
        let Set { six, services, .. } = self.set;
        let ends = Ends { six, vip, services, flows: self.flows };
        let template = match self.kind {
            Kind::Tcp | Kind::Floor(_) => to_vips(ends, Payload::Tcp(ACK)),
            Kind::Syn => to_vips(ends, Payload::Tcp(SYN)),
            Kind::Udp => to_vips(ends, Payload::Udp),
            Kind::Quic => to_vips(ends, Payload::Quic),
            Kind::Echo => to_vips(ends, Payload::Echo),
            Kind::NatReply => replies(six, self.flows),
            Kind::IcmpError => errors(ends),
            Kind::TooBig => large(ends),
            // Far behind the last VIP.
            Kind::Miss => to_vips(Ends { vip: 0xff00, ..ends }, Payload::Tcp(ACK)),
            Kind::PortMiss => to_vips(ends, Payload::Tcp(ACK)).at_port(81),
            Kind::Decap { gue } => tunnelled(ends, gue),
        };
        // What is behind a new header stays as it is; a tunnel takes a hop.
        let is_tunnelled = matches!(self.kind, Kind::Tcp | Kind::Syn | Kind::Udp | Kind::Quic)
            && self.set.mode.overhead() != 0;
        match self.kind {
            Kind::Floor(_) => template.a_hop_older(six),
            _ if is_tunnelled => template.a_hop_older(six),
            _ => template,
        }
    }

    /// Bytes that the program puts in front.
    pub(crate) const fn undo(&self) -> i32 {
        let outer = if self.set.six { 40 } else { 20 };
        match self.kind {
            Kind::Floor(Floor::Tx) => 0,
            Kind::Floor(_) => 20,
            // An IP header and 8 bytes of ICMP.
            Kind::TooBig => outer + 8,
            Kind::Decap { gue: false } => -outer,
            Kind::Decap { gue: true } => -outer - 8,
            Kind::NatReply | Kind::Echo | Kind::Miss | Kind::PortMiss => 0,
            Kind::Tcp | Kind::Syn | Kind::Udp | Kind::Quic | Kind::IcmpError => {
                self.set.mode.overhead()
            }
        }
    }

    pub(crate) const fn action(&self) -> Action {
        match self.kind {
            Kind::Miss | Kind::PortMiss | Kind::Decap { .. } => Action::Pass,
            _ => Action::Transmit,
        }
    }

    /// What it is compared with: what has to be done at least.
    pub(crate) const fn floor(&self) -> Floor {
        match (self.kind, self.undo()) {
            (Kind::Floor(floor), _) => floor,
            (_, 0) => Floor::Tx,
            _ => Floor::Encapsulate,
        }
    }
}
