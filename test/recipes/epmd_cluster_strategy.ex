# A strategy of libcluster: connects to the nodes that its config names, such as [join: ["web*@hosta.local"]].
defmodule EpmdCluster.Strategy do
  use Cluster.Strategy

  def start_link([state]), do: Task.start_link(fn -> subscribe(state) end)

  defp subscribe(state) do
    port = String.to_integer(System.get_env("ERL_EPMD_PORT", "4369"))
    with {:ok, socket} <- :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false, buffer: 65_536]) do
      :gen_tcp.send(socket, <<1::16, "W">>)
      read(state, socket, :gen_tcp.recv(socket, 4)) # its port; then lines
      :gen_tcp.close(socket)
    end
    Process.sleep(1_000)
    subscribe(state)
  end

  defp read(_, _, {:error, _}), do: :epmd_has_gone
  defp read(state, socket, {:ok, line}) do
    join(state, for(field <- String.split(line), [key, value] <- [String.split(field, "=", parts: 2)], into: %{}, do: {key, value}))
    :inet.setopts(socket, packet: :line)
    read(state, socket, :gen_tcp.recv(socket, 0))
  end

  defp join(state, fields) do
    with %{"type" => "normal", "node" => node} when not is_map_key(fields, "sure") <- fields, node = URI.decode(node),
         true <- Enum.any?(state.config[:join] || [], &(node =~ ~r/^#{String.replace(Regex.escape(&1), "\\*", "[^@]*")}\z/u)),
         do: spawn(Cluster.Strategy, :connect_nodes, [state.topology, state.connect, state.list_nodes, [String.to_atom(node)]])
  end
end
