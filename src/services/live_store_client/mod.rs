//! Connections to live-stores (and, on the classic path, to ingesters and metrics-generators).

pub mod config;
