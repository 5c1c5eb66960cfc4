//! The commands that ask the daemon.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::{
    AlertsCommand, BackendCommand, BlockCommand, Command, HealthCommand, ServiceCommand, TakeOut,
};
use super::output::{Failed, is_terminal, print, print_json, warn};
use super::text::{self, Since, WIDTH};
use crate::api::{
    Client, Drain, Flow, NewBackend, NewBlock, NewFreeze, NewWeight, OldBlock, Removal, Thaw,
};
use crate::config::{Config, closest, diff, load, one_of, to_toml, warnings};
use crate::control::clock::epoch_ms;
use crate::control::status::milliseconds;
use crate::report::{Backend, Changed, Error, ErrorKind, Status};

const WATCH: Duration = Duration::from_secs(1);

pub(crate) fn ask(command: Command, socket: &Path, json: bool) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::from_anyhow(error.into()))?;
    runtime.block_on(answer(command, &Client::new(socket), json))
}

pub(crate) fn version(json: bool) -> Result<(), Failed> {
    let version = env!("CARGO_PKG_VERSION");
    match json {
        true => print_json(&serde_json::json!({ "version": version })),
        false => print(&format!("lb {version}\n")),
    }
}

async fn answer(command: Command, client: &Client, json: bool) -> Result<(), Failed> {
    match command {
        Command::Status { watch: true } => watch(client, json).await,
        Command::Status { watch: false } => {
            let status = client.status().await?;
            show(json, &status, || text::paint(&text::status(&status, None, WIDTH)))
        }
        Command::Service(ServiceCommand::List) => {
            let status = client.status().await?;
            show(json, &status.services, || text::services(&status, None, WIDTH))
        }
        Command::Backend(command) => backend(command, client, json).await,
        Command::Health(command) => health(command, client, json).await,
        Command::Alerts { command: None } => {
            let alerts = client.alerts().await?;
            show(json, &alerts, || text::paint(&text::alerts(&alerts, epoch_ms())))
        }
        Command::Alerts { command: Some(AlertsCommand::Test) } => alert_test(client, json).await,
        Command::Block(command) => block(command, client, json).await,
        Command::Apply { file, dry_run } => apply(&file, dry_run, client, json).await,
        Command::Reload => changed(&client.reload().await?, false, json),
        Command::Config => {
            let config = client.config().await?;
            show(json, &config, || to_toml(&config))
        }
        Command::Explain { protocol, client: from, vip } => {
            let flow = Flow { protocol, client: from, vip };
            if from.is_ipv4() != vip.is_ipv4() {
                let message = "the client and the VIP are of different families";
                return Err(Error::new(ErrorKind::Invalid, message, "give two of the same").into());
            }
            let explanation = client.explain(&flow).await?;
            show(json, &explanation, || text::explanation(&explanation))
        }
        // These never ask: `execute` has taken them.
        Command::Run(_) | Command::Decap(_) | Command::Check { .. } | Command::Version => Ok(()),
    }
}

async fn backend(command: BackendCommand, client: &Client, json: bool) -> Result<(), Failed> {
    let done = match command {
        BackendCommand::List { service } => {
            return list(&client.status().await?, service.as_deref(), json);
        }
        BackendCommand::Add { target, address, family, port, weight, backup, server_id } => {
            let backend = NewBackend { address, family, port, weight, backup, server_id };
            client.add(&target.to_string(), &backend).await?
        }
        BackendCommand::Remove { target, force } => {
            client.remove(&target.to_string(), Removal { force }).await?
        }
        BackendCommand::Weight { target, weight } => {
            client.weight(&target.to_string(), NewWeight { weight }).await?
        }
        BackendCommand::Drain(how) => {
            client.drain(&how.target.to_string(), &taken_out(how)).await?
        }
        BackendCommand::Maint(how) => {
            client.maint(&how.target.to_string(), &taken_out(how)).await?
        }
        BackendCommand::Ready { target } => client.ready(&target.to_string()).await?,
    };
    changed(&done, false, json)
}

fn taken_out(how: TakeOut) -> Drain {
    Drain { reason: how.reason, for_ms: how.lasts.map(milliseconds), force: how.force }
}

async fn health(command: HealthCommand, client: &Client, json: bool) -> Result<(), Failed> {
    let done = match command {
        HealthCommand::Freeze { service, lasts, reason } => {
            let for_ms = milliseconds(lasts);
            client.freeze(&NewFreeze { service, reason, for_ms }).await?
        }
        HealthCommand::Thaw { service } => client.thaw(&Thaw { service }).await?,
    };
    changed(&done, false, json)
}

async fn alert_test(client: &Client, json: bool) -> Result<(), Failed> {
    let tests = client.alert_test().await?;
    show(json, &tests, || text::paint(&text::alert_tests(&tests)))?;
    match tests.iter().any(|test| test.error.is_some()) {
        true => Err(Failed::told_failure()),
        false => Ok(()),
    }
}

async fn block(command: BlockCommand, client: &Client, json: bool) -> Result<(), Failed> {
    let done = match command {
        BlockCommand::List => {
            let blocks = client.blocks().await?;
            return show(json, &blocks, || text::blocks(&blocks, epoch_ms()));
        }
        BlockCommand::Add { prefix, reason, lasts, force } => {
            let for_ms = lasts.map(milliseconds);
            client.block(&NewBlock { prefix, reason, for_ms, force }).await?
        }
        BlockCommand::Remove { prefix } => client.unblock(OldBlock { prefix }).await?,
    };
    changed(&done, false, json)
}

fn list(status: &Status, only: Option<&str>, json: bool) -> Result<(), Failed> {
    #[derive(Serialize)]
    struct Listed<'a> {
        service: &'a str,
        #[serde(flatten)]
        backend: &'a Backend,
    }
    let names = || status.services.iter().map(|service| service.name.as_str());
    if let Some(only) = only
        && !names().any(|name| name == only)
    {
        let hint = match closest(only, names()) {
            Some(near) => format!("did you mean {near}? services: {}", one_of(names())),
            None => format!("services: {}", one_of(names())),
        };
        let message = format!("there is no service '{}'", only.escape_debug());
        return Err(Error::new(ErrorKind::NotFound, message, hint).into());
    }
    let listed: Vec<Listed<'_>> = status
        .services
        .iter()
        .filter(|service| only.is_none_or(|name| name == service.name))
        .flat_map(|service| {
            let name = service.name.as_str();
            service.backends.iter().map(move |backend| Listed { service: name, backend })
        })
        .collect();
    show(json, &listed, || {
        text::backends(status, only, None, WIDTH) + &text::notes(status, only, WIDTH)
    })
}

async fn apply(file: &Path, dry_run: bool, client: &Client, json: bool) -> Result<(), Failed> {
    let config = load(file).map_err(|error| Failed::unloadable(file, error))?;
    if !dry_run {
        return changed(&client.apply(&config).await?, false, json);
    }
    let old = client.config().await?;
    if old.node != config.node {
        return Err(node_changed(&old, &config).into());
    }
    let revision = client.status().await?.revision;
    let would = Changed { revision, changes: diff(&old, &config), warnings: warnings(&config) };
    changed(&would, true, json)
}

/// What the daemon would say, and which keys it is about.
fn node_changed(old: &Config, new: &Config) -> Error {
    let only_node = Config { node: new.node.clone(), ..old.clone() };
    Error::new(
        ErrorKind::Refused,
        "[node] is fixed while the daemon runs: change it in the file and restart `lb run`",
        diff(old, &only_node).join("; "),
    )
}

fn changed(changed: &Changed, dry_run: bool, json: bool) -> Result<(), Failed> {
    if !json {
        changed.warnings.iter().for_each(|text| warn(text));
    }
    show(json, changed, || text::changed(changed, dry_run))
}

async fn watch(client: &Client, json: bool) -> Result<(), Failed> {
    let mut before: Option<(Status, Instant)> = None;
    loop {
        let status = client.status().await?;
        let now = Instant::now();
        if json {
            let line = serde_json::to_string(&status).unwrap_or_default();
            print(&format!("{line}\n"))?;
        } else {
            let since = before.as_ref().map(|(status, at)| Since { status, elapsed: now - *at });
            let text = text::paint(&text::status(&status, since, WIDTH));
            // Home and erase below on a terminal: clearing all of it would flicker.
            let home = if is_terminal() { "\u{1b}[H\u{1b}[J" } else { "" };
            std::io::Write::write_all(&mut std::io::stdout(), home.as_bytes())
                .map_err(|error| Failed::from_anyhow(error.into()))?;
            print(&format!("{text}\n"))?;
        }
        before = Some((status, now));
        tokio::time::sleep(WATCH).await;
    }
}

fn show<T: Serialize>(json: bool, value: &T, text: impl FnOnce() -> String) -> Result<(), Failed> {
    if json { print_json(value) } else { print(&text()) }
}
