//! Host names in the control loop: what they resolve to is put in force, and changes that bring new
//! ones wait for a first answer, though not for long.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::ControlLoop;
use crate::config::model::Lookup;
use crate::config::{Config, validate};
use crate::control::capacity::Leave;
use crate::control::handle::{Actor, BackendChange, Reply};
use crate::control::node::Node;
use crate::names::{Answer, Follower, Names, News, lookups};
use crate::report::{Changed, Error};
use crate::store::{NamesFile, Placed};

/// How long a start or a change waits for first answers. Without one a backend is out of service
/// until its name is found.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);

/// The names that are followed, and the changes that wait for some.
pub(in crate::daemon) struct Naming {
    pub(super) names: Names,
    follower: Follower,
    file: NamesFile,
    /// In the order in which they came: none overtakes another.
    waiting: VecDeque<Waiting>,
}

/// A change of the configuration.
pub(super) struct Waiting {
    pub(super) change: Change,
    pub(super) actor: Actor,
    /// Nobody waits for the answer to a signal.
    pub(super) reply: Option<Reply<Changed>>,
    until: Instant,
}

pub(super) enum Change {
    Applied(Box<Config>),
    /// As the file has it.
    File(Box<Config>),
    Backend {
        service: String,
        change: BackendChange,
        force: bool,
    },
}

impl Naming {
    /// Follows the names of a configuration. Returns when all have been answered or have failed, or
    /// after [`FIRST_ANSWERS`].
    pub(in crate::daemon) async fn begin(
        config: &Config,
        (file, placed): (NamesFile, Vec<Placed>),
    ) -> (Self, mpsc::Receiver<(Lookup, Answer)>) {
        let (mut follower, mut answers) = Follower::new();
        let mut names = Names::inherit(config, placed, Instant::now());
        follower.follow(names.followed());
        let limit = tokio::time::sleep(FIRST_ANSWERS);
        tokio::pin!(limit);
        while !names.followed().all(|lookup| names.is_heard(lookup)) {
            tokio::select! {
                Some(answer) = answers.recv() => {
                    for news in names.settle(config, vec![answer], Instant::now()) {
                        tell(&names, &news);
                    }
                }
                () = &mut limit => break,
            }
        }
        let mut naming = Self { names, follower, file, waiting: VecDeque::new() };
        naming.save();
        (naming, answers)
    }

    /// The configuration with all addresses that are known.
    pub(in crate::daemon) fn resolve(&self, config: &Config) -> Config {
        self.names.resolve(config)
    }

    /// The same, refused if it does not hold with them.
    pub(super) fn resolve_checked(&self, config: &Config) -> Result<Config, Error> {
        let resolved = self.names.resolve(config);
        // As written it was checked already.
        if resolved != *config {
            validate(&resolved)?;
        }
        Ok(resolved)
    }

    /// Says why backends are nowhere.
    pub(in crate::daemon) fn explain_to(&self, node: &mut Node) {
        if self.names.is_any_nowhere() {
            node.explain_nowhere(|lookup| self.names.why_nowhere(lookup));
        }
    }

    /// When the next change has waited long enough.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.until)
    }

    /// Follows just the names of a configuration that is in force, and those that are waited for.
    fn follow(&mut self, config: &Config) {
        let mut wanted = lookups(config);
        wanted.extend(self.waiting.iter().flat_map(|waiting| waiting.lookups(config)));
        self.names.keep(&wanted);
        self.follower.follow(self.names.followed());
        self.save();
    }

    fn is_ready(&self, waiting: &Waiting, config: &Config) -> bool {
        Instant::now() >= waiting.until
            || waiting.lookups(config).iter().all(|lookup| self.names.is_heard(lookup))
    }

    fn save(&mut self) {
        if let Err(error) = self.file.write(self.names.placed()) {
            tracing::error!(error = format!("{error:#}"), "addresses of names could not be saved");
        }
    }
}

impl Waiting {
    pub(super) fn new(change: Change, actor: Actor, reply: Option<Reply<Changed>>) -> Self {
        Self { change, actor, reply, until: Instant::now() + FIRST_ANSWERS }
    }

    /// The names it brings to what is in force.
    fn lookups(&self, config: &Config) -> Vec<Lookup> {
        match &self.change {
            Change::Applied(new) | Change::File(new) => lookups(new).into_iter().collect(),
            Change::Backend { service, change: BackendChange::Add(backend), .. } => {
                let service = config.services.iter().find(|s| s.name == *service);
                service.and_then(|service| service.lookup(backend)).into_iter().collect()
            }
            Change::Backend { .. } => Vec::new(),
        }
    }
}

impl ControlLoop {
    /// Carries out a change now, or as soon as its names have been asked for.
    pub(super) async fn change(&mut self, waiting: Waiting) {
        self.naming.names.add(waiting.lookups(&self.state.config));
        self.naming.follower.follow(self.naming.names.followed());
        self.naming.waiting.push_back(waiting);
        self.carry_out_waiting().await;
    }

    pub(super) async fn carry_out_waiting(&mut self) {
        while let Some(next) = self.naming.waiting.pop_front() {
            if !self.naming.is_ready(&next, &self.state.config) {
                self.naming.waiting.push_front(next);
                return;
            }
            self.carry_out(next).await;
        }
    }

    async fn carry_out(&mut self, waiting: Waiting) {
        let wanted = waiting.lookups(&self.state.config);
        let Waiting { change, actor, reply, .. } = waiting;
        let mut done = match change {
            Change::Applied(config) => self.apply(config, &actor).await,
            Change::File(config) => self.take_file(*config, &actor).await,
            Change::Backend { service, change, force } => {
                self.change_backend(&service, change, force, &actor).await
            }
        };
        if let Ok(changed) = &mut done {
            let names = &self.naming.names;
            let nowhere = wanted.iter().filter(|lookup| names.address(lookup).is_none());
            changed.warnings.extend(nowhere.map(|lookup| {
                let failure = names.why_nowhere(lookup);
                let why = failure.detail();
                format!("{why}; its backends are out of service until it has an address")
            }));
        }
        answer(reply, done);
        self.naming.follow(&self.state.config);
    }

    /// Takes what the DNS said.
    pub(super) async fn on_answers(&mut self, answers: Vec<(Lookup, Answer)>) {
        let now = Instant::now();
        let mut leave = Leave::of(&self.node);
        let may_leave = |lookup: &Lookup| leave.may(lookup);
        let news = self.naming.names.settle_where(&self.state.config, answers, may_leave, now);
        if let Err(error) = self.put_in_force(&news) {
            let why = format!("{error:#}");
            for moved in &news {
                if let News::Moved { lookup, from, to } = moved {
                    self.naming.names.take_back(lookup, (*from, *to), &why, now);
                }
            }
            tracing::error!(error = why, "the addresses of names cannot be put in force");
        }
        for news in &news {
            tell(&self.naming.names, news);
        }
        self.naming.explain_to(&mut self.node);
        if !news.is_empty() {
            self.naming.save();
            self.watch.hurry();
        }
        self.carry_out_waiting().await;
    }

    /// Replaces backends whose names moved, as a reload does.
    fn put_in_force(&mut self, news: &[News]) -> anyhow::Result<()> {
        if !news.iter().any(|news| matches!(news, News::Moved { .. })) {
            return Ok(());
        }
        let wanted = self.naming.resolve(&self.state.config);
        let before = self.node.config.clone();
        let drains = self.state.drains();
        self.node.check(&wanted)?;
        let applied = self.node.apply(&wanted, &drains, false);
        if applied.is_err() {
            // Where it failed on the way, what was there before is put back.
            self.node.apply(&before, &drains, false)?;
        }
        applied
    }
}

fn tell(names: &Names, news: &News) {
    let why = |lookup| names.trouble(lookup).map_or("", |trouble| trouble.why.as_str());
    let text = |address: &Option<IpAddr>| address.map_or("none".into(), |a| a.to_string());
    match news {
        News::Moved { lookup, from, to } => {
            tracing::info!(name = %lookup.host, from = text(from), %to, "address of a name");
        }
        News::Failed(lookup) => {
            let kept = text(&names.address(lookup));
            tracing::warn!(name = %lookup.host, reason = why(lookup), kept, "a name gives no address that can be taken");
        }
        News::Well(lookup) => {
            let address = text(&names.address(lookup));
            tracing::info!(name = %lookup.host, address, "a name gives its address again");
        }
    }
}

/// Answers who asked for a change; it is logged if that was a signal.
pub(super) fn answer(reply: Option<Reply<Changed>>, done: Result<Changed, Error>) {
    if let Some(reply) = reply {
        // Whoever asked may have gone.
        let _ = reply.send(done);
        return;
    }
    match done {
        Ok(changed) if changed.changes.is_empty() => tracing::info!("reloaded; no changes"),
        Ok(changed) => tracing::info!(changes = changed.changes.len(), "reloaded"),
        Err(error) => tracing::error!(%error, "cannot reload; the configuration stays"),
    }
}
