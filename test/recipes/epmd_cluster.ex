# Connects to every node that the epmd of this host knows, here and on the LAN, whenever one comes.
defmodule EpmdCluster do
  use Task, restart: :permanent

  def start_link(_), do: Task.start_link(&subscribe/0)

  defp subscribe do
    port = String.to_integer(System.get_env("ERL_EPMD_PORT", "4369"))
    with {:ok, socket} <- :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false, buffer: 65_536]) do
      :gen_tcp.send(socket, <<1::16, "W">>)
      read(socket, :gen_tcp.recv(socket, 4)) # its port; then lines
      :gen_tcp.close(socket)
    end
    Process.sleep(1_000)
    subscribe()
  end

  defp read(_, {:error, _}), do: :epmd_has_gone
  defp read(socket, {:ok, line}) do
    join(for field <- String.split(line), [key, value] <- [String.split(field, "=", parts: 2)], into: %{}, do: {key, value})
    :inet.setopts(socket, packet: :line)
    read(socket, :gen_tcp.recv(socket, 0))
  end

  defp join(%{"type" => "normal", "node" => node} = fields) when not is_map_key(fields, "sure") do
    spawn(Node, :connect, [String.to_atom(URI.decode(node))])
  end
  defp join(_), do: :other
end
