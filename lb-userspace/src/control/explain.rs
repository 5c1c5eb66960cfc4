//! `lb explain`: which backend a flow goes to and why, by the program's own code over its maps.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::FlowKey;
use lb_common::filter;
use lb_common::find_service::{Service, find_service};
use lb_common::hash::fast_range;
use lb_common::ip::{Flow, Ip, V4, V6, ports};
use lb_common::maps::Maps;
use lb_common::path::{Choice, UNNAMED, choose, flow_hash};
use lb_common::pick::Picked;
use lb_common::verdict::{Event, Verdict};

use super::node::Node;
use super::service::Running;
use crate::config::model::Protocol;
use crate::dataplane::services::address;
use crate::dataplane::view::View;
use crate::net::{NextHop, mac_text};
use crate::report::{Error, ErrorKind, Explanation};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Explains a flow from `client` to `vip`.
pub fn explain(
    node: &Node,
    protocol: Protocol,
    client: SocketAddr,
    vip: SocketAddr,
) -> Result<Explanation, Error> {
    match (client.ip(), vip.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => Ok(explain_in::<V4>(node, protocol, client, vip)),
        (IpAddr::V6(_), IpAddr::V6(_)) => Ok(explain_in::<V6>(node, protocol, client, vip)),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            format!("{client} and {vip} are of different families"),
            "give two IPv4 or two IPv6 addresses",
        )),
    }
}

fn explain_in<I: Ip>(
    node: &Node,
    protocol: Protocol,
    client: SocketAddr,
    vip: SocketAddr,
) -> Explanation {
    let maps = &node.arena.maps;
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let flow = |tcp_flags| Flow {
        key: FlowKey {
            source: address(client.ip()),
            destination: address(vip.ip()),
            ports: ports(client.port(), vip.port()),
            kind: FlowKey::kind_of(I::FAMILY, number),
        },
        tcp_flags: if protocol == Protocol::Tcp { tcp_flags } else { 0 },
        length: 40,
    };
    let hash = I::hash(maps.settings().seed, &flow(SYN).key);
    let mut answer = Explanation {
        service: None,
        backend: None,
        verdict: Verdict::PassNotVip.name().into(),
        existing_backend: None,
        hash: format!("{hash:#018x}"),
        slot: None,
        steps: vec![format!("hash of {protocol} {client} → {vip} is {hash:#018x}")],
    };
    let Some(service) = find_service::<I, _>(&View::new(maps), &flow(SYN)) else {
        let is_vip =
            node.config.services.iter().any(|s| s.listen.iter().any(|f| f.vip.contains(vip.ip())));
        if is_vip {
            answer.verdict = Verdict::PassNoService.name().into();
            answer
                .steps
                .push(format!("{} is a VIP, but no service listens on {vip}/{protocol}", vip.ip()));
        } else {
            answer.steps.push(format!("no service listens on {vip}/{protocol}: the kernel's"));
        }
        return answer;
    };
    let Some(running) = node.services.iter().find(|r| r.tables.number == service.number) else {
        return answer;
    };
    answer.service = Some(running.config.name.clone());
    answer.steps.push(format!("service {} in mode {}", running.config.name, running.config.mode));
    let hash = flow_hash::<I>(maps.settings().seed, &service, &flow(SYN).key);
    home(&mut answer, running, &View::new(maps), &service, hash);
    if let Err(verdict) = filter::check(&View::new(maps), &service, &flow(SYN)) {
        answer.verdict = verdict.name().into();
        answer.steps.push(verdict.help().into());
        return answer;
    }
    let new = decide::<I>(
        &mut answer.steps,
        running,
        &View::new(maps),
        &service,
        &flow(SYN),
        "a new flow",
    );
    let existing = (protocol == Protocol::Tcp).then(|| {
        decide::<I>(
            &mut answer.steps,
            running,
            &View::new(maps),
            &service,
            &flow(ACK),
            "an existing flow",
        )
    });
    match new {
        Ok(picked) => {
            answer.backend = name(running, picked.row);
            answer.verdict = "sent".into();
            next_hop(&mut answer, node, running, picked.row);
        }
        Err(verdict) => {
            answer.verdict = verdict.name().into();
            answer.steps.push(verdict.help().into());
        }
    }
    if let Some(Ok(picked)) = existing {
        let existing = name(running, picked.row);
        answer.existing_backend = existing.filter(|e| Some(e) != answer.backend.as_ref());
    }
    answer
}

fn home(
    answer: &mut Explanation,
    running: &Running,
    view: &View<'_>,
    service: &Service,
    hash: u64,
) {
    let slot = fast_range(hash, service.table.slots());
    answer.slot = Some(slot);
    let (element, shift) = service.table.slot_at(slot);
    let Some(word) = view.slots(element) else { return };
    let row = service.table.first_row() + ((word >> shift) as u32 & service.table.slot_mask());
    let home = full_name(running, row).unwrap_or_else(|| "a backend that is gone".into());
    let takes = running
        .backends
        .iter()
        .find(|b| running.tables.row(b.index) == row)
        .map(|b| format!("{:?}", b.state()).to_lowercase());
    answer.steps.push(format!(
        "slot {slot} of {} belongs to {home} ({})",
        service.table.slots(),
        takes.unwrap_or_else(|| "gone".into())
    ));
    let (element, bit) = service.table.mark_at(slot);
    if service.table.marked() && view.marks(element).is_some_and(|m| m >> bit & 1 != 0) {
        answer.steps.push("a change of the slot is fresh: the flow table is asked".into());
    }
}

/// What a packet of the flow gets, by the same functions that run in the kernel.
fn decide<I: Ip>(
    steps: &mut Vec<String>,
    running: &Running,
    view: &View<'_>,
    service: &Service,
    flow: &Flow,
    what: &str,
) -> Result<Picked, Verdict> {
    let picked = choose::<I, _>(view, service, flow, UNNAMED).and_then(|choice| match choice {
        Choice::Connection(slot) => {
            steps.push(format!("{what}: a NAT connection of it is open"));
            let row = slot.entry().row;
            let word = view.word(row).ok_or(Verdict::DropInternal)?;
            Ok(Picked { row, word })
        }
        Choice::Reply => Err(Verdict::NatReply),
        Choice::Reset => Err(Verdict::ResetSent),
        Choice::Open(picked, _) | Choice::Direct(picked, _) => Ok(picked),
    });
    let events = view.events();
    if events.contains(&Event::Rehash) {
        steps.push(format!("{what}: its home is not in the normal state, so it is hashed on"));
    }
    if events.contains(&Event::FlowLookup) {
        let found = !events.contains(&Event::FlowVoid) && view.flow(&flow.key).is_some();
        let found = if found { "asked" } else { "asked, without an answer" };
        steps.push(format!("{what}: the flow table is {found}"));
    }
    steps.push(match &picked {
        Ok(picked) => {
            let name = full_name(running, picked.row).unwrap_or_else(|| "a retired backend".into());
            format!("{what} goes to {name}")
        }
        Err(verdict) => format!("{what} gets {}: {}", verdict.name(), verdict.help()),
    });
    picked
}

fn next_hop(answer: &mut Explanation, node: &Node, running: &Running, row: u32) {
    let Some(backend) = running.backends.iter().find(|b| running.tables.row(b.index) == row) else {
        return;
    };
    match node.servers.hop(backend.config.address, backend.mode) {
        Some(Ok(NextHop::Local)) => answer
            .steps
            .push(format!("{} is this host: passed to its kernel", backend.config.address)),
        Some(Ok(NextHop::Remote(hop))) => answer.steps.push(format!(
            "sent to {} at {} on {}",
            backend.config.address,
            mac_text(hop.destination_mac),
            hop.interface
        )),
        Some(Err(problem)) => {
            answer.verdict = Verdict::DropNoNextHop.name().into();
            answer.steps.push(format!("no next hop to {}: {problem}", backend.config.address));
        }
        None => {
            answer.verdict = Verdict::DropNoNextHop.name().into();
            answer
                .steps
                .push(format!("the next hop to {} is not resolved yet", backend.config.address));
        }
    }
}

fn name(running: &Running, row: u32) -> Option<String> {
    let backend = running.backends.iter().find(|b| running.tables.row(b.index) == row)?;
    Some(backend.config.name.clone())
}

/// `SERVICE/NAME`, as commands take it.
fn full_name(running: &Running, row: u32) -> Option<String> {
    name(running, row).map(|name| format!("{}/{name}", running.config.name))
}
