# What the resolver needs of dns_cluster, which is not packaged for Debian: what its releases 0.1.0 to 0.2.0 ask of the
# module that their option `resolver` names, and what their own DNSCluster.Resolver has. For the tests alone.
defmodule DNSCluster.Resolver do
  def basename(node) when is_atom(node), do: node |> Atom.to_string() |> String.split("@") |> hd()
  def connect_node(node) when is_atom(node), do: Node.connect(node)
  def list_nodes, do: Node.list(:visible)
end

defmodule DNSCluster do
  use GenServer

  def start_link(options), do: GenServer.start_link(__MODULE__, options, name: __MODULE__)

  def init(options) do
    resolver = Keyword.fetch!(options, :resolver)
    state = %{resolver: resolver, basename: resolver.basename(node()), queries: List.wrap(Keyword.fetch!(options, :query))}
    {:ok, state, {:continue, :look}}
  end

  def handle_continue(:look, state), do: look(state)
  def handle_info(:look, state), do: look(state)

  defp look(%{resolver: resolver} = state) do
    known = Enum.map(resolver.list_nodes(), &Atom.to_string/1)
    for query <- state.queries, type <- [:a, :aaaa], ip <- resolver.lookup(query, type),
        name = "#{state.basename}@#{:inet.ntoa(ip)}", name not in known,
        do: resolver.connect_node(String.to_atom(name))
    Process.send_after(self(), :look, 1_000)
    {:noreply, state}
  end
end
