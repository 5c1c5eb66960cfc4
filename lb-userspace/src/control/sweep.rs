//! Housekeeping of the flow and NAT tables: what is idle goes, what still matters is told.
//!
//! Reading a table takes milliseconds to seconds, so it runs beside the control loop, over the
//! maps as packets see them. The results are applied by the loop, which discards them if the
//! service changed meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use lb_common::abi::{
    FlowEntry, FlowKey, NatEntry, STATE_CLOSING, STATE_REPLY, STATE_USED, TOUCH_SECONDS,
};
use lb_common::find_service::{Service, find_service};
use lb_common::hash::fast_range;
use lb_common::ip::{Flow, Ip, TCP, V4, V6};
use lb_common::nat::other_key;
use lb_common::path::flow_hash;
use lb_common::pick::answer_without_entry;

use super::coverage;
use super::rules::{Rule, keep};
use crate::config::model;
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::view::{View, monotonic_seconds};

/// What a sweep must know of a service.
#[derive(Clone, Debug)]
pub struct Swept {
    pub name: String,
    /// How long a recorded TCP flow may be idle.
    pub idle: Duration,
    /// How long a recorded UDP flow may be idle.
    pub udp_idle: Duration,
    /// Counts the service's changes; results for another epoch are void.
    pub epoch: u64,
}

/// What a sweep of the flow table found for one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowsFound {
    pub epoch: u64,
    /// Live recorded flows.
    pub live: u64,
    /// Slots with a live flow that goes elsewhere than its slot says.
    pub needed: BTreeSet<u32>,
    /// Live recorded flows by backend row.
    pub rows: HashMap<u32, u64>,
    /// Live recorded flows whose packets would not be looked up, though they go elsewhere: none.
    pub violations: u64,
}

/// What a sweep of the NAT table found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatFound {
    /// Connections by backend row.
    pub rows: HashMap<u32, u64>,
    pub expired: u64,
    /// Entries read, both directions.
    pub entries: u64,
    /// Rows of backends that are silent to the first packet of a TCP connection.
    pub unanswered: BTreeSet<u32>,
}

/// Reads the flow table: deletes what is idle, and says which slots must stay marked. `services`
/// is by number.
pub fn flows(
    maps: &LiveMaps,
    services: &HashMap<u32, Swept>,
) -> Result<HashMap<String, FlowsFound>> {
    let view = View::new(maps);
    let now = monotonic_seconds();
    let mut found: HashMap<String, FlowsFound> = services
        .values()
        .map(|s| (s.name.clone(), FlowsFound { epoch: s.epoch, ..FlowsFound::default() }))
        .collect();
    let mut expired = Vec::new();
    maps.flows.for_each(|key, entry| {
        let service = service_of(&view, key);
        // A service unknown here may have come since the sweep began.
        let swept = service.as_ref().and_then(|service| services.get(&service.number));
        let idle = swept.map_or(model::Service::IDLE, |swept| match key.kind as u8 {
            TCP => swept.idle,
            _ => swept.udp_idle,
        });
        if is_idle(now, entry.last_seen, idle) {
            expired.push((*key, *entry));
            return;
        }
        let (Some(swept), Some(service)) = (swept, service) else { return };
        let Some(found) = found.get_mut(&swept.name) else { return };
        found.live += 1;
        *found.rows.entry(entry.row).or_default() += 1;
        let hash = hash(maps, &service, key);
        found.violations += u64::from(!coverage::holds(&view, &service, hash, entry));
        if !goes_home(&view, &service, hash, entry) {
            let remembered = !keep(Rule::SlotFromKey);
            let slots = if remembered { 1021 } else { service.table.slots() };
            found.needed.insert(fast_range(hash, slots));
        }
    })?;
    // Gone before their slots' marks are: a late packet finds either both or neither.
    for (key, entry) in expired {
        if !keep(Rule::DeleteFirst) {
            continue;
        }
        if maps.flows.get(&key)? == Some(entry) {
            maps.flows.remove(&key)?;
        }
    }
    Ok(found)
}

fn goes_home(view: &View<'_>, service: &Service, hash: u64, entry: &FlowEntry) -> bool {
    answer_without_entry(view, service, hash).is_some_and(|answer| answer.row == entry.row)
}

/// How long connections may be idle, by stretches of backend rows.
#[derive(Clone, Debug, Default)]
pub struct IdleByRow(BTreeMap<u32, (u32, Duration)>);

impl FromIterator<(Range<u32>, Duration)> for IdleByRow {
    fn from_iter<T: IntoIterator<Item = (Range<u32>, Duration)>>(stretches: T) -> Self {
        let stretches = stretches.into_iter();
        Self(stretches.map(|(rows, idle)| (rows.start, (rows.end, idle))).collect())
    }
}

impl IdleByRow {
    fn get(&self, row: u32) -> Option<Duration> {
        let (_, (end, idle)) = self.0.range(..=row).next_back()?;
        (row < *end).then_some(*idle)
    }
}

/// Reads the NAT table and closes what is over or idle, both entries of a connection together.
/// `idle_of` is by backend row, that of its service; rows of no service get the last argument.
pub fn nat(maps: &LiveMaps, idle_of: &IdleByRow, otherwise: Duration) -> Result<NatFound> {
    let now = monotonic_seconds();
    let mut found = NatFound::default();
    let mut candidates = Vec::new();
    maps.nat.for_each(|key, entry| {
        found.entries += 1;
        if entry.state & STATE_REPLY == 0 {
            *found.rows.entry(entry.row).or_default() += 1;
        }
        if is_unanswered(now, key, entry) {
            found.unanswered.insert(entry.row);
        }
        if age(now, entry.last_seen) >= SHORTEST.as_secs() {
            candidates.push(*key);
        }
    })?;
    for key in candidates {
        // As it is now: since it was read, it may have been used, or closed with its connection
        // and its port be another's.
        let Some(entry) = maps.nat.get(&key)? else { continue };
        let other = other_key(&entry, key.kind);
        let peer = maps.nat.get(&other)?.filter(|peer| other_key(peer, other.kind) == key);
        let idle = idle_of.get(entry.row).unwrap_or(otherwise);
        let quiet =
            age(now, peer.map_or(entry.last_seen, |p| latest(now, entry.last_seen, p.last_seen)));
        if quiet
            <= nat_timeout(&key, &entry, peer.as_ref(), idle).as_secs() + u64::from(TOUCH_SECONDS)
        {
            continue;
        }
        // The forward entry first: while a reply entry lasts, its port stays taken.
        let both = [Some(key), peer.map(|_| other)];
        let [forward, reply] = match entry.state & STATE_REPLY {
            0 => both,
            _ => [both[1], both[0]],
        };
        forward.into_iter().chain(reply).try_for_each(|key| maps.nat.remove(&key))?;
        if entry.state & STATE_REPLY == 0 {
            found.expired += 1;
            if let Some(count) = found.rows.get_mut(&entry.row) {
                *count = count.saturating_sub(1);
            }
        }
    }
    Ok(found)
}

/// Whether a TCP connection has waited for its backend's first word for so long that its client has
/// asked again: that takes a second (RFC 6298, section 2). `last_seen` of a reply entry without
/// replies is when it was opened.
fn is_unanswered(now: u32, key: &FlowKey, entry: &NatEntry) -> bool {
    let is_silent = entry.state & (STATE_REPLY | STATE_USED) == STATE_REPLY;
    // Of seconds that are cut, two are more than one.
    is_silent
        && key.kind as u8 == TCP
        && (2..=OPENING.as_secs()).contains(&age(now, entry.last_seen))
}

/// How long a TCP connection that its backend did not answer is kept.
const OPENING: Duration = Duration::from_secs(15);
/// The shortest of the timeouts below.
const SHORTEST: Duration = Duration::from_secs(5);

/// How long a connection may be quiet. `entry` is either of its entries, `peer` the other.
fn nat_timeout(
    key: &FlowKey,
    entry: &NatEntry,
    peer: Option<&NatEntry>,
    idle: Duration,
) -> Duration {
    let Some(peer) = peer else { return SHORTEST };
    let reply = if entry.state & STATE_REPLY != 0 { entry } else { peer };
    let answered = reply.state & STATE_USED != 0;
    let ends = [entry, peer].iter().filter(|e| e.state & STATE_CLOSING != 0).count();
    match (key.kind as u8 == TCP, answered, ends) {
        // Both directions have ended; the last acknowledgement may be under way.
        (true, true, 2) => SHORTEST,
        // Half closed, or a reset that nobody checked.
        (true, true, 1) => idle.min(Duration::from_secs(60)),
        (true, true, _) => idle,
        (true, false, _) => OPENING,
        (false, true, _) => idle.min(Duration::from_secs(120)),
        (false, false, _) => idle.min(Duration::from_secs(30)),
    }
}

fn is_idle(now: u32, last_seen: u32, idle: Duration) -> bool {
    age(now, last_seen) > idle.as_secs() + u64::from(TOUCH_SECONDS)
}

/// Seconds since; an entry of the second that just began is not old.
fn age(now: u32, last_seen: u32) -> u64 {
    u64::from(now.saturating_sub(last_seen))
}

fn latest(now: u32, a: u32, b: u32) -> u32 {
    if now.saturating_sub(a) < now.saturating_sub(b) { a } else { b }
}

/// The service a recorded flow belongs to, as packets find it.
pub(super) fn service_of(view: &View<'_>, key: &FlowKey) -> Option<Service> {
    let flow = Flow { key: *key, tcp_flags: Flow::ASIDE, length: 0 };
    match key.kind >> 16 {
        V4::FAMILY => find_service::<V4, _>(view, &flow),
        _ => find_service::<V6, _>(view, &flow),
    }
}

pub(super) fn hash(maps: &LiveMaps, service: &Service, key: &FlowKey) -> u64 {
    let seed = maps.settings().seed;
    if key.kind >> 16 == V4::FAMILY {
        flow_hash::<V4>(seed, service, key)
    } else {
        flow_hash::<V6>(seed, service, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    #[test]
    fn rows_of_no_service_have_no_idle_time() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(2));
        let idle: IdleByRow = [(32..48, long), (0..16, short)].into_iter().collect();
        for (row, expect) in
            [(0, Some(short)), (15, Some(short)), (16, None), (32, Some(long)), (48, None)]
        {
            assert_eq!(idle.get(row), expect, "{row}");
        }
    }

    #[test]
    fn a_connection_is_unanswered_while_its_backend_is_silent_to_a_repeated_syn() {
        const UDP: u32 = 17;
        for (protocol, state, age, expect) in [
            (u32::from(TCP), STATE_REPLY, 1, false),
            (u32::from(TCP), STATE_REPLY, 2, true),
            (u32::from(TCP), STATE_REPLY, 15, true),
            // It is swept itself.
            (u32::from(TCP), STATE_REPLY, 16, false),
            (u32::from(TCP), STATE_REPLY | STATE_USED, 2, false),
            (u32::from(TCP), 0, 2, false),
            (UDP, STATE_REPLY, 2, false),
        ] {
            let key = FlowKey { kind: 4 << 16 | protocol, ..FlowKey::zeroed() };
            let entry = NatEntry { state, last_seen: 1000 - age, ..NatEntry::zeroed() };
            assert_eq!(is_unanswered(1000, &key, &entry), expect, "{protocol} {state} {age}");
        }
    }

    #[test]
    fn connections_time_out_by_their_state() {
        const TCP: u32 = 6;
        const UDP: u32 = 17;
        let idle = Duration::from_secs(300);
        // Protocol, state of the forward entry, of the reply entry, timeout in seconds.
        let rows = [
            (TCP, 0, STATE_REPLY, 15),
            (TCP, STATE_USED, STATE_REPLY | STATE_USED, 300),
            (TCP, STATE_USED | STATE_CLOSING, STATE_REPLY | STATE_USED, 60),
            (TCP, STATE_USED, STATE_REPLY | STATE_USED | STATE_CLOSING, 60),
            (TCP, STATE_USED | STATE_CLOSING, STATE_REPLY | STATE_USED | STATE_CLOSING, 5),
            (UDP, STATE_USED, STATE_REPLY, 30),
            (UDP, 0, STATE_REPLY | STATE_USED, 120),
        ];
        for (protocol, forward, reply, expect) in rows {
            let key = FlowKey { kind: FlowKey::kind_of(4, protocol as u8), ..FlowKey::zeroed() };
            let forward = NatEntry { state: forward, ..NatEntry::zeroed() };
            let reply = NatEntry { state: reply, ..NatEntry::zeroed() };
            for (entry, peer) in [(&forward, &reply), (&reply, &forward)] {
                let timeout = nat_timeout(&key, entry, Some(peer), idle);
                assert_eq!(timeout.as_secs(), expect, "{forward:?} {reply:?}");
            }
            assert_eq!(nat_timeout(&key, &forward, None, idle), SHORTEST);
        }
    }
}
