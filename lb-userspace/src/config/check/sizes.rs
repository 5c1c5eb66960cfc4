//! Whether all that is configured fits into the maps.

use std::collections::HashSet;

use crate::config::model::{Config, Location, Prefix};
use crate::config::place::{Place, Problem};

pub(crate) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let services = || config.services.iter();
    let backends = || services().flat_map(|service| &service.backends);
    let frontends = || services().flat_map(|service| &service.listen);
    let limits = &config.node.limits;
    let servers: HashSet<Location<'_>> =
        services().flat_map(|s| s.backends.iter().map(|backend| s.location(backend))).collect();
    let prefixes: HashSet<Prefix> = frontends().map(|frontend| frontend.vip).collect();
    let ids = backends().filter(|backend| backend.server_id.is_some()).count();
    let sources = services().map(|service| service.allow.len()).sum();
    let counts = [
        ("frontends", "frontends", frontends().count(), limits.frontends),
        ("backends", "backends", backends().count(), limits.backends),
        ("servers", "servers", servers.len(), limits.servers),
        ("prefixes", "VIP prefixes", prefixes.len(), limits.prefixes),
        ("server_ids", "server ids", ids, limits.server_ids),
        ("sources", "entries of allow lists", sources, limits.sources),
    ];
    for (key, what, count, limit) in counts {
        if u32::try_from(count).unwrap_or(u32::MAX) > limit {
            problems.push(Problem::new(
                Place::Limit(key),
                format!("there are {count} {what}, and room for {limit}"),
                format!(
                    "raise it: [node] with limits = {{ {key} = {} }}",
                    count.next_power_of_two()
                ),
            ));
        }
    }
}
