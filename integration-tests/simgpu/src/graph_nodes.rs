//! The parameters of graph nodes: asked for, and changed in graphs and in executable graphs.

use crate::copy::Plan;
use crate::edge::{In, Out, driver};
use crate::errors::{Error, Result};
use crate::graph::node;
use crate::graph_exec::EXECS;
use crate::launch::{Arguments, Dimensions, Launch};
use crate::launch_attributes::PROGRAMMATIC;
use crate::memcpy_shaped::Copy3d;
use crate::memset::Fill;
use crate::module;
use crate::work::{HostCall, HostFunction, Work};
use std::ffi::c_void;
use std::sync::Arc;

/// `CUDA_KERNEL_NODE_PARAMS_v1`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParametersV1 {
    function: usize,
    grid: Dimensions,
    block: Dimensions,
    shared: u32,
    pointers: In<*const c_void>,
    extra: In<usize>,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParameters {
    first: KernelParametersV1,
    kernel: usize,
    context: usize,
}

/// `CUDA_HOST_NODE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostParameters {
    /// The program's function.
    pub function: HostFunction,
    /// Its argument.
    pub data: usize,
}

const _: () = assert!(size_of::<KernelParameters>() == size_of::<cudarc::driver::sys::CUDA_KERNEL_NODE_PARAMS>());
const _: () = assert!(size_of::<HostParameters>() == size_of::<cudarc::driver::sys::CUDA_HOST_NODE_PARAMS>());

impl KernelParametersV1 {
    /// The work of a node with these parameters.
    pub fn work(&self) -> Result<Work> {
        let function = module::function(self.function)?;
        let arguments = Arguments { pointers: self.pointers, extra: self.extra };
        let launch = Launch::new(function, self.grid, self.block, self.shared, arguments)?;
        Ok(Work::Kernel(Arc::new(launch)))
    }

    fn of(launch: &Launch) -> KernelParametersV1 {
        KernelParametersV1 {
            function: launch.function.handle,
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
            pointers: In::from(launch.pointers().cast()),
            extra: In::from(std::ptr::null()),
        }
    }
}

impl KernelParameters {
    /// The same with other arguments.
    pub fn with_pointers(mut self, pointers: In<*const c_void>) -> KernelParameters {
        self.first.pointers = pointers;
        self
    }

    /// The work of a node with these parameters: a kernel of a library stands in for the function.
    pub fn work(&self) -> Result<Work> {
        let function = if self.first.function == 0 { self.kernel } else { self.first.function };
        KernelParametersV1 { function, ..self.first }.work()
    }
}

/// The work of a memcpy node.
pub fn copy_work(parameters: In<Copy3d>) -> Result<Work> {
    let (to, from, shape) = parameters.get()?.parts()?;
    if shape.width == 0 || shape.height == 0 || shape.depth == 0 {
        return Ok(Work::Nothing);
    }
    Ok(Work::Copy(Arc::new(Plan::new(to, from, shape)?.0)))
}

/// The work of a memset node.
pub fn fill_work(parameters: In<Fill>) -> Result<Work> {
    let fill = parameters.get()?;
    fill.check()?;
    Ok(Work::Fill(fill))
}

/// The parameters of a kernel node. The pointers in them live as long as the graph.
fn kernel_of(handle: usize) -> Result<KernelParametersV1> {
    let (graph, index) = node(handle)?;
    let nodes = graph.nodes();
    match &nodes[index].work {
        Work::Kernel(launch) => Ok(KernelParametersV1::of(launch)),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn same_type(old: &Work, new: &Work) -> Result {
    if old.node_type() == new.node_type() { Ok(()) } else { Err(Error::INVALID_VALUE) }
}

fn set(handle: usize, work: Work) -> Result {
    let (graph, index) = node(handle)?;
    same_type(&graph.nodes()[index].work, &work)?;
    graph.set_work(index, work);
    Ok(())
}

fn set_in_exec(exec: usize, handle: usize, work: Work) -> Result {
    EXECS.get(exec)?.change(handle, |node| {
        same_type(&node.work, &work)?;
        if let (Work::Copy(old), Work::Copy(new)) = (&node.work, &work)
            && !new.may_replace(old)
        {
            return Err(Error::INVALID_VALUE);
        }
        node.work = work;
        Ok(())
    })
}

driver! {
    [init] "cuGraphKernelNodeGetParams" 10000 cuGraphKernelNodeGetParams(
        _call, handle: usize, out: Out<KernelParametersV1>,
    ) {
        out.put(kernel_of(handle)?)
    }

    [init] "cuGraphKernelNodeGetParams" 12000 cuGraphKernelNodeGetParams_v2(
        _call, handle: usize, out: Out<KernelParameters>,
    ) {
        out.put(KernelParameters { first: kernel_of(handle)?, kernel: 0, context: 0 })
    }

    [init] "cuGraphKernelNodeSetParams" 10000 cuGraphKernelNodeSetParams(
        _call, handle: usize, parameters: In<KernelParametersV1>,
    ) {
        set(handle, parameters.get()?.work()?)
    }

    [init] "cuGraphKernelNodeSetParams" 12000 cuGraphKernelNodeSetParams_v2(
        _call, handle: usize, parameters: In<KernelParameters>,
    ) {
        set(handle, parameters.get()?.work()?)
    }

    [init] "cuGraphExecKernelNodeSetParams" 10010 cuGraphExecKernelNodeSetParams(
        _call, exec: usize, handle: usize, parameters: In<KernelParametersV1>,
    ) {
        set_in_exec(exec, handle, parameters.get()?.work()?)
    }

    [init] "cuGraphExecKernelNodeSetParams" 12000 cuGraphExecKernelNodeSetParams_v2(
        _call, exec: usize, handle: usize, parameters: In<KernelParameters>,
    ) {
        set_in_exec(exec, handle, parameters.get()?.work()?)
    }

    // Attributes have no effect here; the runtime copies them from node to node. That a node may begin early is in
    // its edges.
    [init] "cuGraphKernelNodeCopyAttributes" 11000 cuGraphKernelNodeCopyAttributes(_call, to: usize, from: usize) {
        node(to)?;
        node(from).map(drop)
    }

    [init] "cuGraphKernelNodeGetAttribute" 11000 cuGraphKernelNodeGetAttribute(
        _call, handle: usize, attribute: u32, value: Out<[u8; 64]>,
    ) {
        let (graph, index) = node(handle)?;
        let mut shown = [0; 64];
        shown[0] = (attribute == PROGRAMMATIC && graph.nodes()[index].work.programmatic()).into();
        value.put(shown)
    }

    [init] "cuGraphKernelNodeSetAttribute" 11000 cuGraphKernelNodeSetAttribute(
        _call, handle: usize, _attribute: u32, _value: In<u8>,
    ) {
        node(handle).map(drop)
    }

    [init] "cuGraphMemcpyNodeGetParams" 10000 cuGraphMemcpyNodeGetParams(_call, handle: usize, out: Out<Copy3d>) {
        let (graph, index) = node(handle)?;
        let nodes = graph.nodes();
        match &nodes[index].work {
            Work::Copy(plan) => out.put(Copy3d::of(&plan.request)),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    [init] "cuGraphMemcpyNodeSetParams" 10000 cuGraphMemcpyNodeSetParams(
        _call, handle: usize, parameters: In<Copy3d>,
    ) {
        set(handle, copy_work(parameters)?)
    }

    [init] "cuGraphExecMemcpyNodeSetParams" 10020 cuGraphExecMemcpyNodeSetParams(
        _call, exec: usize, handle: usize, parameters: In<Copy3d>, _context: usize,
    ) {
        set_in_exec(exec, handle, copy_work(parameters)?)
    }

    [init] "cuGraphMemsetNodeGetParams" 10000 cuGraphMemsetNodeGetParams(_call, handle: usize, out: Out<Fill>) {
        let (graph, index) = node(handle)?;
        let nodes = graph.nodes();
        match &nodes[index].work {
            Work::Fill(fill) => out.put(*fill),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    [init] "cuGraphMemsetNodeSetParams" 10000 cuGraphMemsetNodeSetParams(
        _call, handle: usize, parameters: In<Fill>,
    ) {
        set(handle, fill_work(parameters)?)
    }

    [init] "cuGraphExecMemsetNodeSetParams" 10020 cuGraphExecMemsetNodeSetParams(
        _call, exec: usize, handle: usize, parameters: In<Fill>, _context: usize,
    ) {
        set_in_exec(exec, handle, fill_work(parameters)?)
    }

    [init] "cuGraphHostNodeGetParams" 10000 cuGraphHostNodeGetParams(
        _call, handle: usize, out: Out<HostParameters>,
    ) {
        let (graph, index) = node(handle)?;
        let nodes = graph.nodes();
        match &nodes[index].work {
            Work::Host(host) => out.put(HostParameters { function: Some(host.function), data: host.data }),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    [init] "cuGraphExecHostNodeSetParams" 10020 cuGraphExecHostNodeSetParams(
        _call, exec: usize, handle: usize, parameters: In<HostParameters>,
    ) {
        let host = parameters.get()?;
        let function = host.function.ok_or(Error::INVALID_VALUE)?;
        set_in_exec(exec, handle, Work::Host(HostCall { function, data: host.data }))
    }

    [init] "cuGraphMemAllocNodeGetParams" 11040 cuGraphMemAllocNodeGetParams(
        _call, _handle: usize, _out: Out<c_void>,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuGraphMemFreeNodeGetParams" 11040 cuGraphMemFreeNodeGetParams(_call, handle: usize, out: Out<u64>) {
        let (graph, index) = node(handle)?;
        let nodes = graph.nodes();
        match &nodes[index].work {
            Work::GraphFree(address) | Work::Free(address) => out.put(*address),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    [init] "cuGraphNodeSetEnabled" 11060 cuGraphNodeSetEnabled(_call, exec: usize, handle: usize, enabled: u32) {
        EXECS.get(exec)?.change(handle, |node| {
            node.enabled = enabled != 0;
            Ok(())
        })
    }

    [init] "cuGraphNodeGetEnabled" 11060 cuGraphNodeGetEnabled(
        _call, exec: usize, handle: usize, enabled: Out<u32>,
    ) {
        let exec = EXECS.get(exec)?;
        let nodes = exec.nodes();
        let node = nodes.iter().find(|node| node.source == handle).ok_or(Error::INVALID_VALUE)?;
        enabled.put(node.enabled.into())
    }
}
