//! The configuration as YAML text, secrets masked.

use crate::app::config::Config;
use crate::base::yaml::node::Node;

/// Returns the text of `/status/config`: mode absent is the effective configuration, `diff` what differs from the defaults, `defaults` those.
/// Any other mode is an error whose text is the answer.
pub fn render(config: &Config, mode: Option<&str>) -> Result<String, String> {
    let yaml = |node: &Node| serde_norway::to_string(node).map(|yaml| format!("---\n{yaml}")).map_err(|error| error.to_string());
    let tree = |config: &Config| Node::of(config).map_err(|error| error.to_string());
    match mode {
        None | Some("") => yaml(&tree(config)?),
        Some("defaults") => yaml(&tree(&Config::default())?),
        Some("diff") => yaml(&tree(config)?.difference(&tree(&Config::default())?).unwrap_or(Node::Map(Vec::new()))),
        Some(other) => Err(format!("unknown value for mode query parameter: {other}")),
    }
}
