//! Rendering: from routed upstreams to the text of a generation. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use crate::observed::{GenerationId, RoutedUpstream};
use crate::plan::action::NewGeneration;
use crate::spec::Owner;

#[derive(Debug)]
pub struct Renderer;
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RenderError(pub String);

impl Renderer {
    pub fn generation_hash(
        &self,
        _owner: &Owner,
        _upstreams: &BTreeMap<String, RoutedUpstream>,
        _probe: SocketAddr,
    ) -> String {
        String::new()
    }
    pub fn render(
        &self,
        id: &GenerationId,
        _owner: &Owner,
        _upstreams: &BTreeMap<String, RoutedUpstream>,
        _probe: SocketAddr,
        _generations: &Path,
    ) -> Result<NewGeneration, RenderError> {
        Err(RenderError(id.to_string()))
    }
}
