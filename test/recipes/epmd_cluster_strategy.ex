# A strategy of libcluster: connects to the nodes that its config names, such as [join: ["web*@hosta.local"]].
defmodule EpmdCluster.Strategy do
  use Cluster.Strategy

  @impl true
  def start_link([state]) do
    connect = &(Cluster.Strategy.connect_nodes(state.topology, state.connect, state.list_nodes, [&1]) == :ok)
    {module, function, args} = state.list_nodes
    connected = fn -> apply(module, function, args) end
    :eclus_cluster.start_link(%{join: state.config[:join] || [], connect: connect, connected: connected})
  end
end
