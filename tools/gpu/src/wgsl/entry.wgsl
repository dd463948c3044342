// The entry point: `run(sample, group, invocation)`, which the shader declares with its `INVOCATIONS`. Workgroups are
// numbered along x and y; z is the sample.

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    run(group.z, group.y * groups.x + group.x, invocation);
}
