//! Ports: the traits through which roles meet, and their gRPC form.

pub mod proto;
