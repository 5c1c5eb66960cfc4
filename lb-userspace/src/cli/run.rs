//! `lb run`: what the daemon is told, from a file or from options alone.

use std::path::PathBuf;

use super::args::{DEFAULT_CONFIG, RunArgs};
use super::output::Failed;
use super::types::BackendSpec;
use crate::config::model::{
    Backend, Config, Health, Mode, Node, Probe, Protocol, Service, XdpPolicy,
};
use crate::config::{load, validate};

/// All that the daemon needs to start.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Valid.
    pub config: Config,
    /// The file it is from, read again on reload; `None` if it was made from options.
    pub file: Option<PathBuf>,
    pub socket: PathBuf,
    /// Where revisions and the operator's overrides are kept.
    pub state_dir: PathBuf,
    /// Overrides the configuration's policy.
    pub xdp: Option<XdpPolicy>,
    pub log_format: LogFormat,
    /// How often `-v` was given.
    pub verbosity: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

pub(crate) fn run(args: RunArgs, socket: PathBuf) -> Result<(), Failed> {
    let (config, file) = if args.interface.is_empty() {
        let file = args.config.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
        (load(&file).map_err(|error| Failed::unloadable(&file, error))?, Some(file))
    } else {
        let config = inline(&args);
        validate(&config).map_err(Failed::bad_input)?;
        (config, None)
    };
    let options = RunOptions {
        config,
        file,
        socket,
        state_dir: args.state_dir,
        xdp: args.xdp,
        log_format: args.log_format,
        verbosity: args.verbose,
    };
    crate::daemon::run(options).map_err(Failed::from_anyhow)
}

/// One service from options, not yet checked.
fn inline(args: &RunArgs) -> Config {
    let udp_only = args.listen.iter().all(|frontend| frontend.protocol == Protocol::Udp);
    let default_probe = if udp_only { Probe::None } else { Probe::Tcp };
    let name = args.service.as_deref().unwrap_or("web");
    let service = Service {
        listen: args.listen.clone(),
        health: Health::new(args.health.clone().map_or(default_probe, Probe::from)),
        backends: args.backend.iter().map(|spec| backend(spec, &args.backend).into()).collect(),
        ..Service::new(name, args.mode.unwrap_or(Mode::Nat))
    };
    let node = Node { interfaces: args.interface.clone(), ..Node::default() };
    Config { node, alerts: Vec::new(), services: vec![service.into()] }
}

/// Named after its address or host name, which is all there is: so another option moves none of its
/// flows.
fn backend(spec: &BackendSpec, all: &[BackendSpec]) -> Backend {
    let mut name = spec.address.to_string().replace(':', "-").trim_matches('-').to_owned();
    let shared = all.iter().filter(|other| other.address == spec.address).count() > 1;
    if let (true, Some(port)) = (shared, spec.port) {
        name = format!("{name}-{port}");
    }
    Backend { port: spec.port, ..Backend::new(name, spec.address.clone()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn config(options: &[&str]) -> Config {
        let base = ["lb", "run", "--interface", "eth0"];
        let cli = Cli::try_parse_from(base.iter().chain(options)).unwrap();
        let Command::Run(args) = cli.command else { panic!("{cli:?}") };
        inline(&args)
    }

    #[test]
    fn options_make_a_service() {
        let nat = ["--listen", "192.0.2.10:80/tcp", "--mode", "nat", "--backend", "10.0.0.11"];
        let more =
            ["--backend", "10.0.0.12:8080", "--backend", "10.0.0.12:8081", "--health", "http:/x"];
        let config = config(&[&nat[..], &more[..]].concat());
        assert_eq!(validate(&config), Ok(()));
        let named = [&nat[..4], &["--backend", "Web-01.example:8080"]].concat();
        let backend = &self::config(&named).services[0].backends[0];
        assert_eq!((backend.name.as_str(), backend.port), ("web-01.example", Some(8080)));
        assert_eq!(backend.written().to_string(), "web-01.example");
        let names: Vec<&str> =
            config.services[0].backends.iter().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["10.0.0.11", "10.0.0.12-8080", "10.0.0.12-8081"]);
        assert!(matches!(&config.services[0].health.probe, Probe::Http(http) if http.path == "/x"));
    }

    #[test]
    fn an_ipv6_address_makes_a_name() {
        for address in ["fd00::", "2001:db8:1:2:3:4:5:6", "fd00::1"] {
            let listen =
                ["--listen", "[2001:db8::10]:53/udp", "--mode", "dsr", "--backend", address];
            let config = config(&listen);
            assert_eq!(validate(&config), Ok(()), "{config:?}");
            assert_eq!(config.services[0].health.probe, Probe::None);
        }
    }

    #[test]
    fn every_form_of_listen_and_mode_will_do() {
        for (listen, mode, backend) in [
            ("192.0.2.10:80/tcp", "ipip", "fd00::1"),
            ("[2001:db8::10]:80/tcp", "gue", "10.0.0.1"),
            ("192.0.2.0/24:8000-8999/tcp", "nat", "10.0.0.1"),
            ("[2001:db8::/64]:*/udp", "gue", "fd00::1"),
        ] {
            let config = config(&["--listen", listen, "--mode", mode, "--backend", backend]);
            assert_eq!(validate(&config), Ok(()), "{config:?}");
            let service = &config.services[0];
            assert_eq!(
                (service.listen[0].to_string(), service.mode.to_string()),
                (listen.into(), mode.into())
            );
        }
    }

    #[test]
    fn what_options_say_is_checked_like_a_file() {
        for (options, message) in [
            (
                ["--listen", "192.0.2.10:80/tcp", "--mode", "nat", "--backend", "fd00::1"],
                "IPv6 backend",
            ),
            (
                ["--listen", "127.0.0.1:80/tcp", "--mode", "nat", "--backend", "10.0.0.1"],
                "loopback",
            ),
            (
                ["--listen", "192.0.2.10:80/tcp", "--mode", "dsr", "--backend", "10.0.0.1:81"],
                "change the port",
            ),
            (
                ["--listen", "192.0.2.10:80/tcp", "--mode", "nat", "--backend", "192.0.2.10"],
                "is a VIP",
            ),
            (
                ["--listen", "192.0.2.10:80/tcp", "--mode", "gue", "--backend", "10.0.0.1:81"],
                "change the port",
            ),
            (
                ["--listen", "192.0.2.10:*/tcp", "--mode", "dsr", "--backend", "10.0.0.1"],
                "none to probe",
            ),
        ] {
            let error = validate(&config(&options)).unwrap_err();
            assert!(error.message.contains(message), "{error}");
        }
    }
}
