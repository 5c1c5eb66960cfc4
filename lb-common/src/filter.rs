//! Who may come in: the block list, a service's allow list, and how many flows a source opens.
//!
//! Asked only if a flag of the service's record says so, so that a node without lists and limits
//! pays nothing. A function of its own: three maps' worth of registers and stack stay out of the
//! fast path.

use crate::abi::{
    Address, FEATURE_FILTERS, LIST_BLOCK, RateKey, SERVICE_ALLOW, SERVICE_BLOCK, SERVICE_RATE,
    list_word,
};
use crate::find_service::Service;
use crate::ip::Flow;
use crate::limit::Rate;
use crate::maps::Maps;
use crate::verdict::Verdict;

/// Bits of a service's flags that make [`check`] worth calling.
pub const FLAGS: u32 = SERVICE_BLOCK | SERVICE_ALLOW | SERVICE_RATE;

/// Whether the flow's source may come to the service now.
///
/// A rate is counted for packets that open flows alone: what is open stays open. Processors that
/// see the same source at the same time may each let one more in.
#[inline(never)]
pub fn check<M: Maps>(maps: &M, service: &Service, flow: &Flow) -> Result<(), Verdict> {
    if maps.settings().features & FEATURE_FILTERS == 0 {
        return Ok(());
    }
    let family = flow.key.kind >> 16;
    let source = &flow.key.source;
    if service.is(SERVICE_BLOCK) && maps.listed(LIST_BLOCK, family, source) {
        return Err(Verdict::DropBlocked);
    }
    if service.is(SERVICE_ALLOW) && !maps.listed(service.number, family, source) {
        return Err(Verdict::DropNotAllowed);
    }
    if service.is(SERVICE_RATE) && flow.opens() {
        let key =
            RateKey { list: list_word(service.number, family), source: one_source(family, source) };
        let rate = Rate { per_second: service.rate, burst: service.burst };
        let now = maps.now_ms();
        let bucket = maps.rate(&key).unwrap_or(rate.full(now));
        let (bucket, got) = rate.take(bucket, now);
        maps.put_rate(&key, &bucket);
        if !got {
            return Err(Verdict::DropRate);
        }
    }
    Ok(())
}

/// What counts as one source: an IPv4 address, or the /64 of an IPv6 address, all of whose
/// addresses one host has at will.
#[inline(always)]
const fn one_source(family: u32, source: &Address) -> Address {
    let [a, b, c, d] = *source;
    if family == 4 { [a, b, c, d] } else { [a, b, 0, 0] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{FlowKey, join_ports};
    use crate::host::{HostMaps, v6};

    const CLIENT: Address = [u32::from_ne_bytes([198, 51, 100, 7]), 0, 0, 0];
    const OTHER: Address = [u32::from_ne_bytes([198, 51, 101, 7]), 0, 0, 0];

    fn from(source: Address, family: u32, tcp_flags: u8) -> Flow {
        let kind = FlowKey::kind_of(family, 6);
        let key = FlowKey { source, destination: [9, 0, 0, 0], ports: join_ports(1, 2), kind };
        Flow { key, tcp_flags, length: 40 }
    }

    fn service(flags: u32) -> Service {
        Service { flags, number: 3, rate: 2, burst: 4, ..Service::default() }
    }

    const SYN: u8 = 2;
    const ACK: u8 = 16;

    #[test]
    fn a_blocked_source_is_dropped_where_the_flag_says_to_look() {
        let mut maps = HostMaps::with_weights(&[1]);
        maps.list(LIST_BLOCK, 4, CLIENT, 24);
        let blocked = |flags, source| check(&maps, &service(flags), &from(source, 4, ACK));
        assert_eq!(blocked(SERVICE_BLOCK, CLIENT), Err(Verdict::DropBlocked));
        assert_eq!(blocked(SERVICE_BLOCK, OTHER), Ok(()));
        assert_eq!(blocked(0, CLIENT), Ok(()));
        let six = from([CLIENT[0], 0, 0, 0], 6, ACK);
        assert_eq!(check(&maps, &service(SERVICE_BLOCK), &six), Ok(()), "the other family");
        maps.settings.features &= !FEATURE_FILTERS;
        let blind = check(&maps, &service(SERVICE_BLOCK), &from(CLIENT, 4, ACK));
        assert_eq!(blind, Ok(()), "compiled out");
    }

    #[test]
    fn an_allow_list_is_its_services_own() {
        let mut maps = HostMaps::with_weights(&[1]);
        maps.list(3, 4, CLIENT, 32);
        maps.list(4, 4, OTHER, 32);
        maps.list(LIST_BLOCK, 4, CLIENT, 16);
        let allowed = |flags, source| check(&maps, &service(flags), &from(source, 4, SYN));
        assert_eq!(allowed(SERVICE_ALLOW, CLIENT), Ok(()));
        assert_eq!(allowed(SERVICE_ALLOW, OTHER), Err(Verdict::DropNotAllowed));
        let both = SERVICE_ALLOW | SERVICE_BLOCK;
        assert_eq!(allowed(both, CLIENT), Err(Verdict::DropBlocked), "the block list wins");
    }

    #[test]
    fn a_source_opens_so_many_flows_and_keeps_what_is_open() {
        let maps = HostMaps::with_weights(&[1]);
        let limited = service(SERVICE_RATE);
        let open = |source| check(&maps, &limited, &from(source, 4, SYN));
        for _ in 0..4 {
            assert_eq!(open(CLIENT), Ok(()));
        }
        assert_eq!(open(CLIENT), Err(Verdict::DropRate));
        assert_eq!(open(OTHER), Ok(()), "another source has its own");
        assert_eq!(check(&maps, &limited, &from(CLIENT, 4, ACK)), Ok(()), "an open one goes on");
        maps.now.set(maps.now.get() + 1);
        assert_eq!([open(CLIENT), open(CLIENT)], [Ok(()), Ok(())]);
        assert_eq!(open(CLIENT), Err(Verdict::DropRate));
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let maps = HostMaps::with_weights(&[1]);
        let limited = service(SERVICE_RATE);
        for host in 0..4 {
            assert_eq!(check(&maps, &limited, &from(v6(host), 6, SYN)), Ok(()));
        }
        let fifth = check(&maps, &limited, &from(v6(9), 6, SYN));
        assert_eq!(fifth, Err(Verdict::DropRate));
        let mut elsewhere = v6(9);
        elsewhere[1] = 7;
        assert_eq!(check(&maps, &limited, &from(elsewhere, 6, SYN)), Ok(()));
    }
}
