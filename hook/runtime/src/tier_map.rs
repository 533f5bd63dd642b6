//! The tier map: where every byte of every spanning allocation is, as a file that a person or a test reads.
//!
//! Written only when the launcher names a file, whenever a residency has changed. The file is replaced whole, so that a
//! reader never sees half of it.

use crate::runtime::Core;
use greenboost_memory::allocation::Residency;
use greenboost_memory::backing::file_pages;
use greenboost_stream::json::quoted;
use greenboost_weights::registry::Tensor;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

impl Core {
    /// Writes the map, if there is a file for it.
    pub fn draw_map(&self) {
        let Some(path) = &self.memory.settings.map else { return };
        // Whoever writes writes again for those who come meanwhile: nobody waits for a file.
        if self.drawing.fetch_add(1, AcqRel) > 0 {
            return;
        }
        loop {
            let asked = self.drawing.load(Acquire);
            if let Err(error) = replace(path, &self.map_text()) {
                log::warn!("the tier map could not be written to {}: {error}", path.display());
            }
            if self.drawing.compare_exchange(asked, 0, AcqRel, Acquire).is_ok() {
                return;
            }
        }
    }

    fn map_text(&self) -> String {
        let table = self.memory.table();
        let allocations: Vec<_> = table
            .iter()
            .map(|allocation| {
                let chunks: Vec<_> = allocation
                    .chunks
                    .iter()
                    .map(|chunk| {
                        let home = match &chunk.residency {
                            Residency::Vram(_) => "vram",
                            Residency::File(_) => file_pages::NAME,
                            Residency::Ram(backing, _) => backing.name(),
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
        let tensors: Vec<_> = self.tensors.weights().iter().map(|(at, tensor)| tensor_text(*at, tensor)).collect();
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
