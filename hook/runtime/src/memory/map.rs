//! The tier map: where every byte of every spanning allocation is, as a file that a person or a test reads.
//!
//! Written only when the launcher names a file, whenever homes have changed. The file is replaced whole, so that a
//! reader never sees half of it.

use super::Memory;
use super::allocations::Home;
use super::page_cache;
use crate::ggml::registry::{self, Tensor};
use crate::json::quoted;
use crate::stream;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

impl Memory {
    /// Homes have changed: everything that follows them is made anew. Called without `table` held.
    pub fn homes_changed(&self) {
        stream::homes_changed(self);
        self.draw_map();
    }

    /// Writes the map, if there is a file for it.
    fn draw_map(&self) {
        // One at a time, so that the last to write knows the latest.
        static DRAWING: Mutex<()> = Mutex::new(());
        let Some(path) = &self.settings.map else { return };
        let _one_at_a_time = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = replace(path, &self.map_text()) {
            log::warn!("the tier map could not be written to {}: {error}", path.display());
        }
    }

    fn map_text(&self) -> String {
        let table = self.table();
        let allocations: Vec<_> = table
            .iter()
            .map(|allocation| {
                let chunks: Vec<_> = allocation
                    .chunks
                    .iter()
                    .map(|chunk| {
                        let home = match &chunk.home {
                            Home::Vram(_) => "vram",
                            Home::File(_) => page_cache::NAME,
                            Home::Ram(backing, _) => backing.name(),
                        };
                        format!("{{\"at\":{},\"bytes\":{},\"home\":\"{home}\"}}", chunk.at, chunk.bytes)
                    })
                    .collect();
                format!(
                    "{{\"base\":{},\"size\":{},\"device\":{},\"chunks\":[{}]}}",
                    allocation.base,
                    allocation.size,
                    allocation.device,
                    chunks.join(",")
                )
            })
            .collect();
        let tensors: Vec<_> = registry::weights().iter().map(|(at, tensor)| tensor_text(*at, tensor)).collect();
        format!("{{\"allocations\":[\n{}\n],\"tensors\":[\n{}\n]}}\n", allocations.join(",\n"), tensors.join(",\n"))
    }
}

/// A weight as a JSON object. What this ggml does not tell is null.
fn tensor_text(at: u64, tensor: &Tensor) -> String {
    format!(
        "{{\"name\":{},\"at\":{at},\"bytes\":{},\"device\":{}}}",
        quoted(&tensor.name),
        tensor.bytes,
        tensor.device.as_deref().map_or("null".to_owned(), quoted)
    )
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_shows_its_device_where_ggml_tells_it() {
        let tensor = Tensor { name: "output".into(), bytes: 9, ..Tensor::default() };
        let text = |tensor: &Tensor| tensor_text(4096, tensor);
        assert_eq!(text(&tensor), r#"{"name":"output","at":4096,"bytes":9,"device":null}"#);
        let tensor = Tensor { device: Some("CUDA0".into()), ..tensor };
        assert_eq!(text(&tensor), r#"{"name":"output","at":4096,"bytes":9,"device":"CUDA0"}"#);
    }
}
