//! What clients of the API ask for.

use anyhow::{Context, Result};

use super::{Change, ControlLoop, Waiting, failed, naming};
use crate::alert::notifier::Question;
use crate::config::{self, Config};
use crate::control::backend::Drain;
use crate::control::capacity;
use crate::control::clock::epoch_ms;
use crate::control::explain::explain;
use crate::control::handle::{Actor, BackendChange, Reply, Request};
use crate::control::status::{About, milliseconds, status};
use crate::report::{Changed, Error, ErrorKind, Freeze, long_age};

impl ControlLoop {
    pub(super) async fn on_request(&mut self, request: Request) {
        self.follow_clock();
        // Whoever asked may have gone; then the answer is nobody's.
        match request {
            Request::Status(reply) => {
                let about = About {
                    revision: self.state.revision,
                    started: self.started,
                    interfaces: &self.interfaces,
                    freezes: &self.state.freezes,
                    names: &self.naming.names,
                    watch: &self.watch,
                };
                let _ = reply.send(Ok(status(&self.node, &about)));
            }
            Request::Config(reply) => {
                let _ = reply.send(Ok(self.state.config.clone()));
            }
            Request::Apply { config, actor, reply } => {
                self.change(Waiting::new(Change::Applied(config), actor, Some(reply))).await;
            }
            Request::Reload { actor, reply } => {
                self.reload(actor, Some(reply)).await;
            }
            Request::Backend { service, change, force, actor, reply } => {
                let change = Change::Backend { service, change, force };
                self.change(Waiting::new(change, actor, Some(reply))).await;
            }
            Request::Freeze { service, reason, lasts, actor, reply } => {
                let now = epoch_ms();
                let until_ms = now.saturating_add(milliseconds(lasts));
                let freeze = Freeze { service, reason, actor, since_ms: now, until_ms };
                let _ = reply.send(self.freeze(freeze));
            }
            Request::Thaw { service, actor, reply } => {
                let _ = reply.send(self.thaw(service.as_deref(), &actor));
            }
            Request::Blocks(reply) => {
                let _ = reply.send(Ok(self.state.blocks.entries().to_vec()));
            }
            Request::Block { change, actor, reply } => {
                let _ = reply.send(self.change_blocks(change, &actor).await);
            }
            Request::Alerts(reply) => {
                self.notifier.observe(self.watch.now(self.scene()));
                self.notifier.ask(Question::List(reply));
            }
            Request::AlertTest(reply) => self.notifier.ask(Question::Test(reply)),
            Request::Explain { protocol, client, vip, reply } => {
                let _ = reply.send(explain(&self.node, protocol, client, vip));
            }
        }
    }

    pub(super) async fn apply(
        &mut self,
        config: Box<Config>,
        actor: &Actor,
    ) -> Result<Changed, Error> {
        let mut state = self.state.clone();
        let taken = state.take_applied(*config);
        taken.map_err(|error| failed(ErrorKind::Internal, &error))?;
        self.commit(state, actor).await
    }

    pub(super) async fn reload(&mut self, actor: Actor, reply: Option<Reply<Changed>>) {
        match self.read_file().await {
            Ok(config) => {
                let change = Change::File(Box::new(config));
                self.change(Waiting::new(change, actor, reply)).await;
            }
            Err(error) => naming::answer(reply, Err(error)),
        }
    }

    async fn read_file(&self) -> Result<Config, Error> {
        let Some(path) = &self.file else {
            return Err(Error::new(
                ErrorKind::Refused,
                "this daemon was started from options, not from a file",
                "change it with `lb apply FILE` or `lb backend`",
            ));
        };
        let file = path.clone();
        // Probes go on meanwhile.
        let loaded = tokio::task::spawn_blocking(move || config::load(&file)).await;
        let loaded = loaded.context("the file was not read");
        let config = loaded.map_err(|error| failed(ErrorKind::Internal, &error))?;
        config.map_err(|error| {
            let message =
                format!("{} does not load; what runs stays as it is\n{error}", path.display());
            Error::new(ErrorKind::Invalid, message, "mend the file and reload again")
        })
    }

    pub(super) async fn take_file(
        &mut self,
        config: Config,
        actor: &str,
    ) -> Result<Changed, Error> {
        let mut state = self.state.clone();
        let node = self.node.config.node.clone();
        let node_changed = config.node != node;
        state
            .take_file(&config, Config { node, ..config.clone() })
            .map_err(|error| failed(ErrorKind::Internal, &error))?;
        let mut changed = self.commit(state, actor).await?;
        if node_changed {
            let warning = "[node] changed in the file; that takes a restart of `lb run`";
            tracing::warn!("{warning}");
            changed.warnings.push(warning.into());
        }
        Ok(changed)
    }

    pub(super) async fn change_backend(
        &mut self,
        service: &str,
        change: BackendChange,
        force: bool,
        actor: &Actor,
    ) -> Result<Changed, Error> {
        let config = config::apply_backend_change(&self.state.config, service, &change)?;
        if !force {
            self.check_capacity(service, &change)?;
        }
        let mut state = self.state.clone();
        let (name, drain) = match change {
            BackendChange::Drain { name, reason, lasts, maintenance } => {
                let at_ms = epoch_ms();
                // What is not said anew of one that is out already stays as it was said, but for an end
                // that is past.
                let known = state.drain(service, &name);
                let reason = reason.or_else(|| known?.reason.clone());
                let until_ms = lasts
                    .map(|time| at_ms.saturating_add(milliseconds(time)))
                    .or_else(|| known?.until_ms.filter(|end| *end > at_ms));
                let actor = actor.clone();
                (name, Some(Drain { reason, actor, at_ms, until_ms, maintenance }))
            }
            BackendChange::Ready { name } => (name, None),
            BackendChange::Add(_) | BackendChange::Remove { .. } | BackendChange::Weight { .. } => {
                state.change(config);
                return self.commit(state, actor).await;
            }
        };
        let mut changed = self.unchanged();
        if !state.set_drain(service, &name, drain.clone()) {
            return Ok(changed);
        }
        let what = match &drain {
            Some(drain) if drain.maintenance => "in maintenance",
            Some(_) => "draining",
            None => "ready",
        };
        let reason = drain.as_ref().and_then(|drain| drain.reason.clone());
        let end =
            drain.as_ref().and_then(|drain| Some(drain.until_ms?.saturating_sub(drain.at_ms)));
        let end = end.map_or(String::new(), |lasts| format!(", to end in {}", long_age(lasts)));
        self.node
            .set_drain(service, &name, drain)
            .map_err(|error| failed(ErrorKind::Internal, &error))?;
        self.state = state;
        self.save(&mut changed);
        let subject = format!("{service}/{name}");
        tracing::info!(%actor, backend = %subject, reason, "{what}");
        changed.changes.push(format!("{subject}: {what}{end}"));
        let running = self.node.services.iter().find(|r| r.config.name == service);
        if running.is_some_and(|r| r.serving() == 0) {
            changed.warnings.push(format!(
                "{service} has no backend left that is ready: those that are alive get its new \
                 traffic, drained or not"
            ));
        }
        Ok(changed)
    }

    /// Refuses to take out what a service cannot spare.
    fn check_capacity(&self, service: &str, change: &BackendChange) -> Result<(), Error> {
        let (BackendChange::Remove { name } | BackendChange::Drain { name, .. }) = change else {
            return Ok(());
        };
        let running = self.node.services.iter().find(|r| r.config.name == service);
        match running.and_then(|running| capacity::missed(running, name)) {
            Some(missed) => {
                Err(Error::new(ErrorKind::Refused, missed, "use --force to do it anyway"))
            }
            None => Ok(()),
        }
    }
}
