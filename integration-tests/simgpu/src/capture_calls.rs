//! The driver's functions on captures.

use crate::capture::{Capture, Info, Member};
use crate::edge::{In, Out, driver};
use crate::errors::{Error, Result};
use crate::graph::GRAPHS;
use crate::stream::{Kind, Stream, forbid_legacy};

fn info(stream: &Stream) -> Result<Info> {
    if stream.kind == Kind::Legacy {
        // Asking about the legacy stream is itself a use of it.
        forbid_legacy(&*stream.context()?)?;
    }
    Ok(stream.capture().map_or(Info::of(0, 0), |capture| capture.info(stream.id)))
}

fn update_dependencies(stream: &Stream, nodes: &[usize], flags: u32) -> Result {
    stream.capture().ok_or(Error::ILLEGAL_STATE)?.update_dependencies(stream.id, nodes, flags)
}

driver! {
    [ctx] "cuStreamBeginCapture" 10010 cuStreamBeginCapture_v2 | 10010 cuStreamBeginCapture_v2_ptsz(
        call, stream: usize, mode: u32,
    ) {
        Capture::begin(call.stream(stream)?, mode, None)
    }

    [ctx] "cuStreamBeginCaptureToGraph" 12030 cuStreamBeginCaptureToGraph
        | 12030 cuStreamBeginCaptureToGraph_ptsz(
        call, stream: usize, graph: usize, after: In<usize>, _edges: In<u8>,
        count: usize, mode: u32,
    ) {
        let graph = GRAPHS.get(graph)?;
        let after = after.list(count)?.iter().map(|node| graph.index_of(*node)).collect::<Result<_>>()?;
        Capture::begin(call.stream(stream)?, mode, Some((graph, after)))
    }

    [ctx] "cuStreamEndCapture" 10000 cuStreamEndCapture | 10000 cuStreamEndCapture_ptsz(
        call, stream: usize, graph: Out<usize>,
    ) {
        let stream = call.stream(stream)?;
        graph.opt(0);
        let capture = stream.capture().ok_or(Error::ILLEGAL_STATE)?;
        let ended = capture.end(stream.id)?;
        graph.opt(ended.handle);
        Ok(())
    }

    [init] "cuStreamIsCapturing" 10000 cuStreamIsCapturing | 10000 cuStreamIsCapturing_ptsz(
        call, stream: usize, status: Out<u32>,
    ) {
        status.put(info(&*call.stream(stream)?)?.status)
    }

    [init] "cuStreamGetCaptureInfo" 10010 cuStreamGetCaptureInfo | 10010 cuStreamGetCaptureInfo_ptsz(
        call, stream: usize, status: Out<u32>, id: Out<u64>,
    ) {
        let info = info(&*call.stream(stream)?)?;
        id.opt(info.id);
        status.put(info.status)
    }

    [init] "cuStreamGetCaptureInfo" 11030 cuStreamGetCaptureInfo_v2 | 11030 cuStreamGetCaptureInfo_v2_ptsz(
        call, stream: usize, status: Out<u32>, id: Out<u64>, graph: Out<usize>, nodes: Out<*const usize>,
        count: Out<usize>,
    ) {
        let info = info(&*call.stream(stream)?)?;
        id.opt(info.id);
        graph.opt(info.graph);
        nodes.opt(info.nodes);
        count.opt(info.count);
        status.put(info.status)
    }

    [init] "cuStreamGetCaptureInfo" 12030 cuStreamGetCaptureInfo_v3 | 12030 cuStreamGetCaptureInfo_v3_ptsz(
        call, stream: usize, status: Out<u32>, id: Out<u64>, graph: Out<usize>, nodes: Out<*const usize>,
        edges: Out<*const u8>, count: Out<usize>,
    ) {
        let info = info(&*call.stream(stream)?)?;
        id.opt(info.id);
        graph.opt(info.graph);
        nodes.opt(info.nodes);
        edges.opt(info.edges);
        count.opt(info.count);
        status.put(info.status)
    }

    [ctx] "cuStreamUpdateCaptureDependencies" 11030 cuStreamUpdateCaptureDependencies
        | 11030 cuStreamUpdateCaptureDependencies_ptsz(
        call, stream: usize, nodes: In<usize>, count: usize, flags: u32,
    ) {
        update_dependencies(&*call.stream(stream)?, &nodes.list(count)?, flags)
    }

    [ctx] "cuStreamUpdateCaptureDependencies" 12030 cuStreamUpdateCaptureDependencies_v2
        | 12030 cuStreamUpdateCaptureDependencies_v2_ptsz(
        call, stream: usize, nodes: In<usize>, _edges: In<u8>, count: usize, flags: u32,
    ) {
        update_dependencies(&*call.stream(stream)?, &nodes.list(count)?, flags)
    }
}
