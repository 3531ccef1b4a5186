//! tempo-rs stores and searches distributed traces; see `ARCHITECTURE.md` for the map.
//!
//! Layers, each may use those below it and nothing above: `app`, `modules`, `services`, `tempodb`, `traceql`, `model`, `base`. `proto` is generated and
//! stands below all of them.

pub mod app;
pub mod base;
pub mod model;
pub mod modules;
pub mod proto;
pub mod services;
pub mod tempodb;
pub mod traceql;
