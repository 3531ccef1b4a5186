//! Ports: the only way from one role to another. One file per port holds its trait, its types and its error.
