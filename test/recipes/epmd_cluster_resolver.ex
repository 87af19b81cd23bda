# A resolver for dns_cluster: finds the nodes of a host, which are called by its address, as epmd knows them.
defmodule EpmdCluster.Resolver do
  defdelegate basename(node), to: DNSCluster.Resolver
  defdelegate connect_node(node), to: DNSCluster.Resolver
  defdelegate list_nodes, to: DNSCluster.Resolver

  def lookup(host, type) do
    for %{"host" => ^host, "node" => node} = fields <- :eclus_epmd.known_nodes(),
        [_, called] = String.split(node, "@"),
        fields["origin"] == "local" or called in String.split(fields["addresses"] || fields["address"], ","),
        {:ok, ip} <- [:inet.parse_strict_address(to_charlist(called))],
        type == if(tuple_size(ip) == 4, do: :a, else: :aaaa),
        uniq: true,
        do: ip
  end
end
