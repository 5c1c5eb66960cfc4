//! The `failover` table.

use toml::Spanned;

use super::Lowering;
use crate::config::model::{Failover, OnDown, Percent};
use crate::config::place::Place;
use crate::config::raw::RawFailover;

const ON_DOWN: [(&str, OnDown); 3] =
    [("rehash", OnDown::Rehash), ("keep", OnDown::Keep), ("reset", OnDown::Reset)];

impl Lowering {
    pub(super) fn failover(&mut self, s: usize, raw: Spanned<RawFailover>) -> Failover {
        let raw = self.open(Place::ServiceKey(s, "failover"), raw);
        let key = |key| Place::FailoverKey(s, key);
        let default = Failover::default();
        let mut share = |name, raw: Option<Spanned<String>>, default: Percent| {
            raw.and_then(|text| self.parse(key(name), &text)).unwrap_or(default)
        };
        let max_removed = share("max_removed", raw.max_removed, default.max_removed);
        let in_window = raw.max_removed_in_window;
        let max_removed_in_window = share("max_removed_in_window", in_window, max_removed);
        let backup_below = share("backup_below", raw.backup_below, default.backup_below);
        Failover {
            max_removed,
            max_removed_in_window,
            window: self.duration(key("window"), raw.window, default.window),
            on_down: self.policy(
                key("on_down"),
                raw.on_down,
                "what becomes of connections",
                &ON_DOWN,
            ),
            backup_below,
            backup_return: self.duration(
                key("backup_return"),
                raw.backup_return,
                default.backup_return,
            ),
        }
    }
}
