//! The lab: client, balancer and backends as network namespaces with the kernel's own stacks and real nginx, and
//! the load that is sent through them.
//!
//! Used by the tests, `cargo xtask lab` and `cargo xtask demo`. Knows the product only by its command line.

mod balancer;
pub mod bench;
mod cables;
mod capture;
mod cores;
mod decap;
mod faults;
mod http;
mod iperf;
mod lab;
mod load;
mod long_connections;
mod namespace;
mod network;
mod nginx;
mod observe;
mod process;
mod processor_time;
mod reach;
mod registry;
mod topology;
mod transfer;
mod udp_echo;
mod webhook;
mod xdp;

pub use balancer::{BackendConfig, Balancer, QUICK_DETECTION, ServiceConfig};
pub use cables::{Cables, End};
pub use capture::{Capture, packet_socket};
pub use cores::{all_cores, pin};
pub use decap::{Decap, DecapCounts};
pub use faults::Fault;
pub use http::{Connection, Failure, Response};
pub use iperf::{IPERF_PORT, Iperf, Stream, Streamed, stream};
pub use lab::{Backend, Lab};
pub use load::{Limit, Load, Outcome, Report, Request, RunningLoad};
pub use long_connections::{ConnectionReport, LongConnections, RunningConnections};
pub use namespace::Namespace;
pub use nginx::{HUGE_BYTES, Nginx};
pub use observe::Counts;
pub use process::{Process, wait_until};
pub use processor_time::of_ended_children;
pub use reach::{Probe, ping, traceroute};
pub use registry::{down, down_stale, kept};
pub use topology::{Arms, Family, Mode, Topology, VIP4, VIP6};
pub use transfer::{download, upload};
pub use udp_echo::UdpEcho;
pub use webhook::{Post, Webhook, said};
