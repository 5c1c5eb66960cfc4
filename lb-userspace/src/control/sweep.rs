//! Housekeeping of the flow and NAT tables: what is idle goes, what still matters is told.
//!
//! Reading a table takes milliseconds to seconds, so it runs beside the control loop, over the
//! maps as packets see them. The results are applied by the loop, which discards them if the
//! service changed meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use lb_common::abi::{
    FlowEntry, FlowKey, NatEntry, STATE_CLOSING, STATE_REPLY, STATE_USED, TOUCH_SECONDS,
    split_ports,
};
use lb_common::find_service::Service;
use lb_common::hash::fast_range;
use lb_common::ip::{Ip, V4, V6};
use lb_common::nat::other_key;
use lb_common::pick::answer_without_entry;

use crate::config::model;
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::services::Key;
use crate::dataplane::view::{View, monotonic_seconds};

/// What a sweep must know of a service.
#[derive(Clone, Debug)]
pub struct Swept {
    pub name: String,
    pub service: Service,
    pub idle: Duration,
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
}

/// What a sweep of the NAT table found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatFound {
    /// Connections by backend row.
    pub rows: HashMap<u32, u64>,
    pub expired: u64,
    /// Entries read, both directions.
    pub entries: u64,
}

/// Reads the flow table: deletes what is idle, and says which slots must stay marked.
pub fn flows(
    maps: &LiveMaps,
    services: &HashMap<Key, Swept>,
) -> Result<HashMap<String, FlowsFound>> {
    let view = View::new(maps);
    let now = monotonic_seconds();
    let mut found: HashMap<String, FlowsFound> = services
        .values()
        .map(|s| (s.name.clone(), FlowsFound { epoch: s.epoch, ..FlowsFound::default() }))
        .collect();
    let mut expired = Vec::new();
    maps.flows.for_each(|key, entry| {
        // A frontend unknown here may have come since the sweep began.
        let swept = frontend(key).and_then(|key| services.get(&key));
        let idle = swept.map_or(model::Service::IDLE, |swept| swept.idle);
        if is_idle(now, entry.last_seen, idle) {
            expired.push((*key, *entry));
            return;
        }
        let Some(swept) = swept else { return };
        let Some(found) = found.get_mut(&swept.name) else { return };
        found.live += 1;
        *found.rows.entry(entry.row).or_default() += 1;
        let hash = hash(maps, key);
        if !goes_home(&view, &swept.service, hash, entry) {
            found.needed.insert(fast_range(hash, swept.service.table.slots()));
        }
    })?;
    // Gone before their slots' marks are: a late packet finds either both or neither.
    for (key, entry) in expired {
        if maps.flows.get(&key)? == Some(entry) {
            maps.flows.remove(&key)?;
        }
    }
    Ok(found)
}

fn goes_home(view: &View<'_>, service: &Service, hash: u64, entry: &FlowEntry) -> bool {
    answer_without_entry(view, service, hash).is_some_and(|answer| answer.row == entry.row)
}

/// Reads the NAT table and closes what is over or idle, both entries of a connection together.
/// `idle` is by backend row, that of its service; rows of no service get the last argument.
pub fn nat(
    maps: &LiveMaps,
    idle_of: &HashMap<u32, Duration>,
    otherwise: Duration,
) -> Result<NatFound> {
    let now = monotonic_seconds();
    let mut found = NatFound::default();
    let mut candidates = Vec::new();
    maps.nat.for_each(|key, entry| {
        found.entries += 1;
        if entry.state & STATE_REPLY == 0 {
            *found.rows.entry(entry.row).or_default() += 1;
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
        let idle = idle_of.get(&entry.row).copied().unwrap_or(otherwise);
        let quiet =
            age(now, peer.map_or(entry.last_seen, |p| latest(now, entry.last_seen, p.last_seen)));
        if quiet < nat_timeout(&key, &entry, peer.as_ref(), idle).as_secs() {
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

/// The shortest of the timeouts below.
const SHORTEST: Duration = Duration::from_secs(5);

/// How long a connection may be quiet. `entry` is either of its entries, `peer` the other.
fn nat_timeout(
    key: &FlowKey,
    entry: &NatEntry,
    peer: Option<&NatEntry>,
    idle: Duration,
) -> Duration {
    const TCP: u8 = 6;
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
        (true, false, _) => Duration::from_secs(15),
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

/// The frontend a client's packet is addressed to.
fn frontend(key: &FlowKey) -> Option<Key> {
    let address = match key.kind >> 16 {
        4 => IpAddr::from(key.destination[0].to_ne_bytes()),
        6 => IpAddr::from(bytemuck::cast::<_, [u8; 16]>(key.destination)),
        _ => return None,
    };
    let port = u16::from_be(split_ports(key.ports).1);
    Some(Key { address, port, protocol: key.kind as u8 })
}

fn hash(maps: &LiveMaps, key: &FlowKey) -> u64 {
    let seed = maps.settings.seed;
    if key.kind >> 16 == V4::FAMILY { V4::hash(seed, key) } else { V6::hash(seed, key) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

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

    #[test]
    fn frontends_are_read_back_from_keys() {
        let key = FlowKey {
            destination: crate::dataplane::services::address("2001:db8::10".parse().unwrap()),
            ports: lb_common::ip::ports(40_000, 443),
            kind: FlowKey::kind_of(6, 6),
            ..FlowKey::zeroed()
        };
        let expect = Key { address: "2001:db8::10".parse().unwrap(), port: 443, protocol: 6 };
        assert_eq!(frontend(&key), Some(expect));
    }
}
