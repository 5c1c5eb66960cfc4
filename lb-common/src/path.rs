//! The packet path, whole: decode → find service → pick backend → rewrite → send.
//!
//! Every step answers "go on" or the packet's [`Verdict`]. What runs here runs in the kernel,
//! under `lb explain`, and in the tests, on the same bytes.

use crate::abi::{
    ADDRESS_NAT, ADDRESS_VIP, FEATURE_FILTERS, FEATURE_NAT, FEATURE_QUIC, FlowKey, IFINDEX_LOCAL,
    KIND_DSR, KIND_NAT, LIST_BLOCK, SERVICE_ALLOW, SERVICE_BLOCK, SERVICE_HASH_ADDRESSES,
    SERVICE_HASH_SOURCE, SERVICE_MSS, SERVICE_NAT, SERVICE_QUIC, SERVICE_RATE, SERVICE_RESET,
    STATE_REPLY, STATE_USED, Server, ServerIdKey, split_ports,
};
use crate::encap::{Encapsulate, encapsulate, overhead};
use crate::filter;
use crate::find_service::{Service, find_fragments, find_frontend, find_service};
use crate::frame::Frame;
use crate::icmp::{self, Icmp, IcmpKind, Tell};
use crate::ip::{Flow, ICMP, ICMP6, Ip, Odd, V4, V6, ether_type};
use crate::maps::{Maps, NatSlot};
use crate::mss::{self, Segment};
use crate::nat::{self, Known};
use crate::packet::Packet;
use crate::pick::{Picked, pick};
use crate::quic::{self, Datagram, Quic};
use crate::reset::{self, Reset};
use crate::rewrite::{Translate, ethernet};
use crate::straight;
use crate::verdict::{Event, Kind, Verdict};
use crate::vlan;

/// A family, with all that the path does to its packets.
pub trait Family: Translate + Encapsulate + Icmp + Reset + Segment + Datagram {}
impl Family for V4 {}
impl Family for V6 {}

/// Where a frame came from: its interface, and the VLAN tag it bore (the id; 0 for none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Interface index.
    pub ifindex: u32,
    /// VLAN id.
    pub vlan: u32,
}

impl Arrival {
    /// Both in one word.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.ifindex as u64 | (self.vlan as u64) << 32
    }

    /// Of [`Self::word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self { ifindex: word as u32, vlan: (word >> 32) as u32 }
    }
}

/// A packet rewritten and ready to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The interface it leaves by; [`IFINDEX_LOCAL`]: it stays, for this host's kernel.
    pub ifindex: u32,
    /// The backend row it goes to; [`Sent::TO_CLIENT`] for a reply.
    pub row: u32,
    /// The VLAN tag it is to bear: the id; 0 for none.
    pub vlan: u32,
}

impl Sent {
    /// `row` of a reply.
    pub const TO_CLIENT: u32 = (1 << 21) - 1;
}

/// Why a packet is not sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It ends here.
    Verdict(Verdict),
    /// Its sender is to be told why.
    Tell(Tell),
    /// Its sender's connection is to be reset.
    Reset,
}

impl From<Verdict> for Stop {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// The end of a part of the path in one word, as global functions return no more.
///
/// | bits | |
/// | --- | --- |
/// | 0–27 | interface, the last two being [`IFINDEX_LOCAL`] and [`crate::abi::IFINDEX_INGRESS`]; or the verdict; or the MTU to tell, 0 for "time exceeded" |
/// | 28–48 | row |
/// | 49–60 | VLAN id |
/// | 61 | by a reset: there is nothing else in the word |
/// | 62 | the sender is to be told |
/// | 63 | it is a verdict |
#[inline(always)]
#[must_use]
pub fn to_word(end: Result<Sent, Stop>) -> u64 {
    match end {
        Ok(sent) => {
            u64::from(sent.ifindex & IFINDEX_BITS)
                | u64::from(sent.row) << 28
                | u64::from(sent.vlan) << 49
        }
        Err(Stop::Verdict(verdict)) => verdict_word(verdict),
        Err(Stop::Tell(Tell::TimeExceeded)) => TELL,
        Err(Stop::Tell(Tell::TooBig(mtu))) => TELL | u64::from(mtu & IFINDEX_BITS),
        Err(Stop::Reset) => TELL | RESET,
    }
}

/// [`to_word`] of a verdict.
#[inline(always)]
#[must_use]
pub const fn verdict_word(verdict: Verdict) -> u64 {
    1 << 63 | verdict as u64
}

/// Of [`to_word`], at the end of the path, where there is nothing left to tell.
#[inline(always)]
pub fn from_word(word: u64) -> Result<Sent, Verdict> {
    if is_verdict(word) {
        return Err(Verdict::from_number(word as u32 & 0xff));
    }
    let ifindex = word as u32 & IFINDEX_BITS;
    // The kernel counts interfaces from 1; the two at the end are ours.
    let ours = if ifindex >= IFINDEX_LOCAL & IFINDEX_BITS { !IFINDEX_BITS } else { 0 };
    Ok(Sent { ifindex: ifindex | ours, row: row_of(word), vlan: vlan_of(word) })
}

/// Whether a word ([`to_word`]) is a verdict.
#[inline(always)]
const fn is_verdict(word: u64) -> bool {
    word >> 63 != 0
}

/// The row in a word that is none.
#[inline(always)]
const fn row_of(word: u64) -> u32 {
    (word >> 28) as u32 & Sent::TO_CLIENT
}

/// The VLAN id in a word that is none.
#[inline(always)]
const fn vlan_of(word: u64) -> u32 {
    (word >> 49) as u32 & 0xfff
}

const RESET: u64 = 1 << 61;
const TELL: u64 = 1 << 62;
const IFINDEX_BITS: u32 = (1 << 28) - 1;

/// Takes a frame that arrived on interface `ingress` through the whole path.
///
/// Counts backends and events; the caller counts the verdict, [`Verdict::NatReply`] included. A
/// verdict of kind `Send` is an answer to the sender, which leaves where the packet came.
pub fn run<M: Maps, F: Frame>(maps: &M, frame: &mut F, ingress: u32) -> Result<Sent, Verdict> {
    let end = straight::run(maps, frame, ingress, |end| to_word(end.map_err(Stop::Verdict)));
    if end != straight::NOT_STRAIGHT {
        return from_word(end);
    }
    run_whole(maps, frame, ingress)
}

/// [`run`] of any frame, without the short cut: what the straight way is compared with.
pub(crate) fn run_whole<M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    ingress: u32,
) -> Result<Sent, Verdict> {
    from_word(run_by(maps, frame, ingress, |part, frame, argument| match part {
        Part::Balance4 => balance::<V4, M, F>(maps, frame, argument),
        Part::Balance6 => balance::<V6, M, F>(maps, frame, argument),
        Part::Ping4 => ping::<V4, M, F>(maps, frame),
        Part::Ping6 => ping::<V6, M, F>(maps, frame),
        Part::Quoted4 => quoted::<V4, M, F>(maps, frame),
        Part::Quoted6 => quoted::<V6, M, F>(maps, frame),
        Part::Tell4 => tell::<V4, M, F>(maps, frame, argument),
        Part::Tell6 => tell::<V6, M, F>(maps, frame, argument),
    }))
}

/// The parts of the path that the program runs as global functions: each is verified by itself,
/// once, and has the stack to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// [`balance`] of IPv4; its argument is [`Arrival::word`].
    Balance4,
    /// The same of IPv6.
    Balance6,
    /// [`ping`] of IPv4.
    Ping4,
    /// The same of IPv6.
    Ping6,
    /// [`quoted`] of IPv4.
    Quoted4,
    /// The same of IPv6.
    Quoted6,
    /// [`tell`] of IPv4; its argument is the end of the part before.
    Tell4,
    /// The same of IPv6.
    Tell6,
}

/// [`run`] of what goes not straight, with its parts given, in words ([`to_word`]).
///
/// Verifier: words from end to end, as the compiler keeps the unused half of a `Result` in a
/// register that it never wrote ("R0 !read_ok").
#[inline(always)]
pub fn run_by<M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    ingress: u32,
    part: impl Fn(Part, &mut F, u64) -> u64,
) -> u64 {
    let tag = match vlan::pop(frame) {
        Ok(tag) => tag,
        Err(verdict) => return verdict_word(verdict),
    };
    let bytes = frame.packet().len() as u64;
    let arrival = Arrival { ifindex: ingress, vlan: vlan::id(tag) };
    let end = match which(frame.packet()) {
        Ok(which) => {
            let end = part(which, frame, arrival.word());
            let is_v4 = matches!(which, Part::Balance4 | Part::Quoted4);
            match end & TELL {
                0 => end,
                _ if is_v4 => part(Part::Tell4, frame, end),
                _ => part(Part::Tell6, frame, end),
            }
        }
        Err(verdict) => verdict_word(verdict),
    };
    if tag == 0 && (is_verdict(end) || vlan_of(end) == 0) {
        return count(maps, end, bytes);
    }
    leave_tagged(maps, frame, end, tag, bytes)
}

/// The end of the path of a frame with a tag: that goes on, and what was sent is counted. Only
/// now, as what could not be tagged is not sent. A function of its own: its stack is not that of the
/// parts' caller.
#[inline(never)]
fn leave_tagged<M: Maps, F: Frame>(maps: &M, frame: &mut F, end: u64, tag: u32, bytes: u64) -> u64 {
    if vlan::push(frame, leaves_with(end, tag)).is_none() {
        return verdict_word(Verdict::DropInternal);
    }
    count(maps, end, bytes)
}

/// Counts what was sent to a backend. Not inlined: the entry's frame stays within 32 bytes, which
/// kernel 6.1 counts an empty one as.
#[inline(never)]
fn count<M: Maps>(maps: &M, end: u64, bytes: u64) -> u64 {
    let row = row_of(end);
    if !is_verdict(end) && row != Sent::TO_CLIENT {
        maps.count_sent(row, bytes);
    }
    end
}

/// The tag a frame leaves with. What stays here, or goes back to its sender, is tagged as it came.
#[inline(always)]
fn leaves_with(end: u64, tag: u32) -> u32 {
    match from_word(end) {
        Ok(Sent { ifindex: IFINDEX_LOCAL, .. }) => tag,
        Ok(sent) => vlan::tag(sent.vlan),
        Err(verdict) if matches!(verdict.kind(), Kind::Drop) => 0,
        Err(_) => tag,
    }
}

#[inline(always)]
pub(crate) fn which(packet: Packet<'_>) -> Result<Part, Verdict> {
    let Some(head) = packet.head::<14>() else { return Err(Verdict::PassBadHeader) };
    match head.be16::<12>() {
        ether_type::IPV4 => {
            let Some(head) = packet.head::<34>() else { return Err(Verdict::PassBadHeader) };
            if head.u8::<23>() != ICMP {
                return Ok(Part::Balance4);
            }
            let is_error = matches!(icmp::kind::<V4>(packet), IcmpKind::Error);
            Ok(if is_error { Part::Quoted4 } else { Part::Ping4 })
        }
        ether_type::IPV6 => {
            let Some(head) = packet.head::<54>() else { return Err(Verdict::PassBadHeader) };
            if head.u8::<20>() != ICMP6 {
                return Ok(Part::Balance6);
            }
            let is_error = matches!(icmp::kind::<V6>(packet), IcmpKind::Error);
            Ok(if is_error { Part::Quoted6 } else { Part::Ping6 })
        }
        _ => Err(Verdict::PassNotIp),
    }
}

/// All but ICMP, of one family.
#[inline(always)]
pub fn balance<I: Family, M: Maps, F: Frame>(maps: &M, frame: &mut F, arrival: u64) -> u64 {
    to_word(balanced::<I, M, F>(maps, frame, Arrival::from_word(arrival)))
}

/// Pings of one family, and all other ICMP that is no error.
#[inline(always)]
pub fn ping<I: Family, M: Maps, F: Frame>(maps: &M, frame: &mut F) -> u64 {
    verdict_word(answer::<I, M, F>(maps, frame))
}

/// ICMP errors of one family.
#[inline(always)]
pub fn quoted<I: Family, M: Maps, F: Frame>(maps: &M, frame: &mut F) -> u64 {
    to_word(follow_quoted::<I, M, F>(maps, frame))
}

/// Tells a packet's sender why it is not sent on.
#[inline(always)]
pub fn tell<I: Family, M: Maps, F: Frame>(maps: &M, frame: &mut F, end: u64) -> u64 {
    if maps.settings().features & FEATURE_NAT != 0 && end & RESET != 0 {
        return verdict_word(reset::answer::<I, M, F>(maps, frame));
    }
    let tell = match end as u32 & IFINDEX_BITS {
        0 => Tell::TimeExceeded,
        mtu => Tell::TooBig(mtu),
    };
    verdict_word(icmp::tell::<I, M, F>(maps, frame, tell))
}

#[inline(always)]
fn balanced<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    arrival: Arrival,
) -> Result<Sent, Stop> {
    let mut flow = Flow::NONE;
    let service = match I::decode(frame.packet(), &mut flow) {
        Ok(()) => find_service::<I, M>(maps, &flow),
        Err(Odd::Unaddressed) => return Err(Verdict::PassBadHeader.into()),
        Err(Odd::Verdict(verdict)) => return Err(if_vip::<I, M>(maps, &flow, verdict).into()),
        // ICMP never comes here.
        Err(Odd::Icmp) => return Err(Verdict::DropInternal.into()),
        Err(Odd::Fragment) => {
            flow.tcp_flags = Flow::ASIDE;
            let service = find_fragments::<I, M>(maps, &flow.key);
            // NAT would need its ports.
            let service = service.filter(|service| !service.is(SERVICE_NAT));
            if service.is_none() {
                return Err(if_vip::<I, M>(maps, &flow, Verdict::DropFragment).into());
            }
            service
        }
    };
    let Some(service) = service else {
        return not_for_a_service::<I, M, F>(maps, frame, &flow);
    };
    if let Some(sent) = serve::<I, M, F>(maps, frame, &service, &mut flow, arrival)? {
        return Ok(sent);
    }
    not_for_a_service::<I, M, F>(maps, frame, &flow)
}

/// Sends a client's packet to a backend of its service. `Ok(None)`: it is no client's.
#[inline(always)]
fn serve<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    service: &Service,
    flow: &mut Flow,
    arrival: Arrival,
) -> Result<Option<Sent>, Stop> {
    let features = maps.settings().features;
    if features & FEATURE_FILTERS != 0 && service.is(SERVICE_ALLOW | SERVICE_BLOCK | SERVICE_RATE) {
        filter::check(maps, service, flow)?;
    }
    // A fragment is no datagram: its bytes may look like any header.
    let is_datagram = !flow.is_tcp() && flow.tcp_flags != Flow::ASIDE;
    let named = if features & FEATURE_QUIC != 0 && service.is(SERVICE_QUIC) && is_datagram {
        by_server_id::<I, M, F>(maps, frame, service, flow)
    } else {
        UNNAMED
    };
    let choice = choose::<I, M>(maps, service, flow, named)?;
    let (row, to_open) = match choice {
        Choice::Reply => return Ok(None),
        Choice::Reset => return Err(Stop::Reset),
        Choice::Connection(slot) => (slot.entry().row, None),
        Choice::Open(picked, hash) | Choice::Direct(picked, hash) => (picked.row, Some(hash)),
    };
    let word = maps.word(row).ok_or(Verdict::DropInternal)?;
    let server = maps.server(word.server()).ok_or(Verdict::DropInternal)?;
    obstacle::<I, F>(frame, server, flow.length)?;
    // Not before: who is told of an obstacle is told of the packet as it came, and a backend's
    // packet is clamped as a reply.
    if service.is(SERVICE_MSS)
        && flow.is_syn()
        && mss::clamp::<I>(frame.packet(), service.mss as u16)
    {
        maps.count(Event::MssClamped);
    }
    if features & FEATURE_NAT != 0 && server.kind == KIND_NAT {
        if let Some(hash) = to_open
            && !nat::close_void(maps, flow)
        {
            // In a service whose mode changes `choose` may not have asked.
            if !flow.opens() {
                return Err(Verdict::DropNatNoConnection.into());
            }
            nat::open(maps, frame, flow, hash, row, arrival)?;
        }
        let slot = maps.nat(&flow.key).ok_or(Verdict::DropInternal)?;
        if slot.entry().state & STATE_REPLY != 0 {
            return Ok(None);
        }
        // Whoever opened it may have chosen another backend.
        let same = slot.entry().row == row;
        let server = if same { server } else { nat::server_of(maps, slot.entry())? };
        let sent = nat::forward::<I, M>(maps, frame.packet(), slot, server, flow, arrival)?;
        return Ok(Some(sent));
    }
    if flow.is_syn() {
        maps.count_new(row);
    }
    let mut hash = to_open.unwrap_or_default();
    if service.is(SERVICE_HASH_SOURCE | SERVICE_HASH_ADDRESSES) {
        // A tunnel spreads the flows of a client, too.
        hash = I::hash(maps.settings().seed, &flow.key);
    }
    hand_over::<I, M, F>(maps, frame, server, hash)?;
    Ok(Some(Sent { ifindex: server.ifindex, row, vlan: server.vlan }))
}

/// What keeps a packet from a server: no known way, no hops left, too little room. Its sender is
/// to be told of the last two.
#[inline(always)]
fn obstacle<I: Family, F: Frame>(frame: &mut F, server: &Server, length: u32) -> Result<(), Stop> {
    if server.ifindex == 0 {
        return Err(Verdict::DropNoNextHop.into());
    }
    if server.ifindex == IFINDEX_LOCAL {
        return Ok(());
    }
    // `dsr` is no router.
    if server.kind != KIND_DSR && I::hops(frame.packet()).is_none_or(|hops| hops <= 1) {
        return Err(Stop::Tell(Tell::TimeExceeded));
    }
    let added = overhead(server.kind);
    if length + added <= server.mtu {
        return Ok(());
    }
    Err(Stop::Tell(Tell::TooBig(server.mtu.saturating_sub(added).max(I::LEAST_MTU))))
}

/// Makes a packet one that a server without NAT takes.
#[inline(always)]
pub(crate) fn hand_over<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    server: &Server,
    hash: u64,
) -> Result<(), Verdict> {
    if server.ifindex == IFINDEX_LOCAL {
        return Ok(());
    }
    if server.kind == KIND_DSR {
        return ethernet(frame.packet(), &server.ethernet).ok_or(Verdict::DropInternal);
    }
    encapsulate::<I, F>(frame, server, hash, &maps.settings()).ok_or(Verdict::DropInternal)
}

/// No backend is named. A number, as the compiler leaves the rest of a `None` unwritten and puts
/// it on the stack all the same. Verifier: "R2 !read_ok".
pub const UNNAMED: u32 = u32::MAX;

/// The row of the backend that a datagram's QUIC connection id names, if it is alive, else
/// [`UNNAMED`]. A datagram that opens a connection is noted as such.
#[inline(always)]
fn by_server_id<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    service: &Service,
    flow: &mut Flow,
) -> u32 {
    let id = match quic::route::<I>(frame.packet(), service.quic) {
        Quic::Server(id) => id,
        Quic::New => {
            flow.tcp_flags = Flow::OPENS;
            return UNNAMED;
        }
        Quic::Hash => return UNNAMED,
    };
    let key = ServerIdKey { service: service.number, padding: 0, id };
    let Some(row) = maps.server_id(&key) else { return UNNAMED };
    match maps.word(row) {
        Some(word) if word.serving() => row,
        _ => UNNAMED,
    }
}

/// What a client's packet is to become.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'m> {
    /// A packet of this NAT connection.
    Connection(NatSlot<'m>),
    /// No client's packet but a backend's.
    Reply,
    /// A packet of a NAT connection whose backend is gone, to be answered with a reset.
    Reset,
    /// The first packet of a NAT connection to this backend; with the hash that chose it.
    Open(Picked, u64),
    /// A packet for this backend, sent to it as it is; with the hash that chose it.
    Direct(Picked, u64),
}

/// Decides on a client's packet; `named` is the row that it asks for itself (QUIC), which a NAT
/// connection does not: its entry says where it goes, and what is a reply is no client's at all.
#[inline(always)]
pub fn choose<'m, I: Ip, M: Maps>(
    maps: &'m M,
    service: &Service,
    flow: &Flow,
    named: u32,
) -> Result<Choice<'m>, Verdict> {
    let has_nat = maps.settings().features & FEATURE_NAT != 0 && service.is(SERVICE_NAT);
    let mut is_void = false;
    if has_nat {
        match nat::known(maps, flow) {
            Known::Connection(slot) => return Ok(Choice::Connection(slot)),
            Known::Reply => return Ok(Choice::Reply),
            Known::Void if service.is(SERVICE_RESET) && flow.may_be_reset() => {
                return Ok(Choice::Reset);
            }
            Known::Void => is_void = true,
            Known::Nothing => {}
        }
    }
    let hash = flow_hash::<I>(maps.settings().seed, service, &flow.key);
    let picked = if named == UNNAMED {
        pick(maps, service, flow, hash)?
    } else {
        maps.count(Event::QuicServerId);
        Picked { row: named, word: maps.word(named).ok_or(Verdict::DropInternal)? }
    };
    if !has_nat {
        return Ok(Choice::Direct(picked, hash));
    }
    // In a service whose mode changed, what NAT does not know is the former mode's.
    let server = maps.server(picked.word.server()).ok_or(Verdict::DropInternal)?;
    match server.kind {
        KIND_NAT if flow.opens() => Ok(Choice::Open(picked, hash)),
        KIND_NAT if is_void => Err(Verdict::DropNatBackendDown),
        KIND_NAT => Err(Verdict::DropNatNoConnection),
        _ => {
            if is_void {
                // Else the connection's next packet would follow it: only a SYN sees that it is void.
                nat::close_void(maps, flow);
            }
            Ok(Choice::Direct(picked, hash))
        }
    }
}

/// The hash that decides on a flow's backend, by the service's policy.
#[inline(always)]
#[must_use]
pub fn flow_hash<I: Ip>(seed: u64, service: &Service, key: &FlowKey) -> u64 {
    if !service.is(SERVICE_HASH_SOURCE | SERVICE_HASH_ADDRESSES) {
        return I::hash(seed, key);
    }
    let both = service.is(SERVICE_HASH_ADDRESSES);
    let destination = if both { key.destination } else { [0; 4] };
    I::hash(seed, &FlowKey { destination, ports: 0, kind: I::FAMILY << 16, ..*key })
}

/// Answers a ping of a VIP; what else is no error is the kernel's.
#[inline(always)]
fn answer<I: Family, M: Maps, F: Frame>(maps: &M, frame: &mut F) -> Verdict {
    let mut flow = Flow::NONE;
    match I::decode(frame.packet(), &mut flow) {
        Err(Odd::Icmp) => {}
        Err(Odd::Verdict(verdict)) => return if_vip::<I, M>(maps, &flow, verdict),
        Ok(()) | Err(Odd::Unaddressed | Odd::Fragment) => return Verdict::PassBadHeader,
    }
    let verdict = if_vip::<I, M>(maps, &flow, Verdict::PassNoService);
    let is_echo = matches!(icmp::kind::<I>(frame.packet()), IcmpKind::EchoRequest);
    if verdict != Verdict::PassNoService || !is_echo {
        return verdict;
    }
    let filters = maps.settings().features & FEATURE_FILTERS != 0;
    if filters && maps.listed(LIST_BLOCK, I::FAMILY, &flow.key.source) {
        return Verdict::DropBlocked;
    }
    let answered = icmp::echo_reply::<I>(frame.packet());
    answered.map_or(Verdict::PassNoService, |()| Verdict::EchoReply)
}

/// Sends an ICMP error where the flow goes, or comes from, that it quotes.
#[inline(always)]
fn follow_quoted<I: Family, M: Maps, F: Frame>(maps: &M, frame: &mut F) -> Result<Sent, Stop> {
    let mut flow = Flow::NONE;
    match I::decode(frame.packet(), &mut flow) {
        Err(Odd::Icmp) => {}
        Err(Odd::Verdict(verdict)) => return Err(if_vip::<I, M>(maps, &flow, verdict).into()),
        _ => return Err(Verdict::PassBadHeader.into()),
    }
    // Verifier: the address is read again from the packet where it is wanted again; kept, it is too
    // much for the stack ("combined stack size of 4 calls is 544", kernel 6.1).
    flow = match icmp::quoted::<I>(frame.packet()) {
        // An error comes to where the packet came from that it quotes.
        Some(quoted) if I::is_to(frame.packet(), &quoted.key.destination) => quoted,
        _ => return Err(quotes_no_flow::<I, M>(maps, frame.packet(), &mut flow).into()),
    };
    let service = find_service::<I, M>(maps, &flow);
    let may_be_nat = service.as_ref().is_none_or(|service| service.is(SERVICE_NAT));
    if maps.settings().features & FEATURE_NAT != 0 && may_be_nat {
        maps.count(Event::NatLookup);
        if let Some(slot) = maps.nat(&flow.key) {
            maps.count(Event::Quoted);
            // About what a backend was sent, not about an answer of one.
            if nat::is_reply(slot.entry()) && icmp::says_unreachable::<I>(frame.packet()) {
                maps.count(Event::NatUnreachable);
                maps.doubt(slot.entry().row);
            }
            return Ok(nat::error::<I, M>(maps, frame.packet(), slot)?);
        }
    }
    let Some(service) = service else {
        return Err(quotes_no_flow::<I, M>(maps, frame.packet(), &mut flow).into());
    };
    let hash = flow_hash::<I>(maps.settings().seed, &service, &flow.key);
    let picked = pick(maps, &service, &flow, hash)?;
    let server = maps.server(picked.word.server()).ok_or(Verdict::DropInternal)?;
    if server.kind == KIND_NAT {
        return Err(Verdict::DropIcmpNoFlow.into());
    }
    obstacle::<I, F>(frame, server, flow.length)?;
    hand_over::<I, M, F>(maps, frame, server, hash)?;
    maps.count(Event::Quoted);
    Ok(Sent { ifindex: server.ifindex, row: picked.row, vlan: server.vlan })
}

/// The verdict of an ICMP error about no flow of the address that it is to. `flow` is of no use any
/// more.
#[inline(always)]
fn quotes_no_flow<I: Ip, M: Maps>(maps: &M, packet: Packet<'_>, flow: &mut Flow) -> Verdict {
    let Some(destination) = I::destination(packet) else { return Verdict::DropInternal };
    flow.key.destination = destination;
    match maps.address::<I>(&flow.key.destination) & ADDRESS_VIP {
        0 => Verdict::PassNotVip,
        _ => Verdict::DropIcmpNoFlow,
    }
}

#[inline(always)]
fn not_for_a_service<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    flow: &Flow,
) -> Result<Sent, Stop> {
    let address = maps.address::<I>(&flow.key.destination);
    if address & ADDRESS_NAT != 0
        && maps.settings().features & FEATURE_NAT != 0
        && nat::may_be_reply(maps, flow)
        && let Some(slot) = nat::known_reply(maps, flow)
    {
        return reply::<I, M, F>(maps, frame, slot, flow);
    }
    let is_vip = address & ADDRESS_VIP != 0;
    Err(if is_vip { Verdict::PassNoService } else { Verdict::PassNotVip }.into())
}

/// Sends a backend's packet to its client.
#[inline(always)]
fn reply<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    slot: NatSlot<'_>,
    flow: &Flow,
) -> Result<Sent, Stop> {
    if I::hops(frame.packet()).is_none_or(|hops| hops <= 1) {
        return Err(Stop::Tell(Tell::TimeExceeded));
    }
    let mtu = maps.settings().client_mtu;
    if flow.length > mtu {
        return Err(Stop::Tell(Tell::TooBig(mtu)));
    }
    if flow.is_tcp() && flow.begins() {
        clamp_reply::<I, M>(maps, frame.packet(), slot, flow);
    }
    // The backend's first word on this connection.
    if flow.is_tcp() && flow.resets() && slot.entry().state & STATE_USED == 0 {
        maps.count(Event::NatRefused);
        maps.doubt(slot.entry().row);
    }
    Ok(nat::back::<I, M>(maps, frame.packet(), slot, flow)?)
}

/// Clamps the segment size that a backend announces, if its service wants it. Verifier: inlined, as
/// by a function in between the "combined stack size of 5 calls is 528. Too large".
#[inline(always)]
fn clamp_reply<I: Family, M: Maps>(maps: &M, packet: Packet<'_>, slot: NatSlot<'_>, flow: &Flow) {
    let entry = slot.entry();
    let (vip_port, _) = split_ports(entry.ports);
    let service = find_frontend::<I, M>(maps, &entry.source, vip_port, flow.protocol());
    let Some(service) = service else { return };
    if service.is(SERVICE_MSS) && mss::clamp::<I>(packet, service.mss as u16) {
        maps.count(Event::MssClamped);
    }
}

/// The verdict of a packet that cannot be balanced: its own only if it is for a VIP.
#[inline(always)]
fn if_vip<I: Ip, M: Maps>(maps: &M, flow: &Flow, verdict: Verdict) -> Verdict {
    let is_vip = maps.address::<I>(&flow.key.destination) & ADDRESS_VIP != 0;
    if is_vip { verdict } else { Verdict::PassNotVip }
}
