# What the strategy needs of libcluster, which is not packaged for Debian, made from its documented interface
# (hexdocs.pm/libcluster, 3.3): the supervisor that starts the strategies of topologies, the state they are given, and
# Cluster.Strategy.connect_nodes/4. For the tests alone.
defmodule Cluster.Strategy.State do
  defstruct [:topology, :connect, :disconnect, :list_nodes, :meta, config: []]
end

defmodule Cluster.Strategy do
  @callback child_spec([struct]) :: Supervisor.child_spec()
  @callback start_link([struct]) :: {:ok, pid} | :ignore | {:error, term}

  defmacro __using__(_) do
    quote do
      @behaviour Cluster.Strategy
      @impl true
      def child_spec(args), do: %{id: __MODULE__, start: {__MODULE__, :start_link, [args]}}
      defoverridable child_spec: 1
    end
  end

  def connect_nodes(_topology, {module, function, args}, {list_module, list_function, list_args}, nodes) do
    connected = [node() | apply(list_module, list_function, list_args)]
    refused = for node <- nodes, node not in connected, (result = apply(module, function, args ++ [node])) != true, do: {node, result}
    if refused == [], do: :ok, else: {:error, refused}
  end
end

defmodule Cluster.Supervisor do
  use Supervisor

  def start_link([topologies, options]), do: Supervisor.start_link(__MODULE__, topologies, options)

  def init(topologies) do
    children = for {topology, spec} <- topologies do
      state = %Cluster.Strategy.State{
        topology: topology, config: spec[:config] || [],
        connect: spec[:connect] || {:net_kernel, :connect_node, []},
        disconnect: spec[:disconnect] || {:erlang, :disconnect_node, []},
        list_nodes: spec[:list_nodes] || {:erlang, :nodes, [:connected]}
      }
      %{id: topology, start: {spec[:strategy], :start_link, [[state]]}}
    end
    Supervisor.init(children, strategy: :one_for_one)
  end
end
