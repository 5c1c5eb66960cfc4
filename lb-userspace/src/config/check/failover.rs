//! Rules for what a service does when its backends fail.

use std::time::Duration;

use super::health::whole_milliseconds;
use crate::config::model::Service;
use crate::config::place::{Gaps, Place, Problem};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn check(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let failover = &service.failover;
    for (key, value) in [("window", failover.window), ("backup_return", failover.backup_return)] {
        if !(SECOND..=DAY).contains(&value) || !whole_milliseconds(value) {
            let message = format!("`{key}` must be 1s to 24h");
            let hint = "10s, the default, suits most services";
            problems.push(Problem::new(Place::FailoverKey(s, key), message, hint));
        }
    }
    if !gaps.contains(&Place::ServiceKey(s, "backends"))
        && !service.backends.is_empty()
        && service.backends.iter().all(|backend| backend.backup)
    {
        problems.push(Problem::new(
            Place::ServiceKey(s, "backends"),
            "all backends are backups",
            "remove `backup` from those that serve when nothing is wrong",
        ));
    }
}
