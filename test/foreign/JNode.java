import com.ericsson.otp.erlang.*;

/**
 * Java nodes: "JNode COOKIE NAME@HOST..." has each register, accept one connection, send back what it is sent,
 * and unregister. It says what they do.
 */
public class JNode {
	public static void main(String[] args) {
		for (int i = 1; i < args.length; i++) {
			String name = args[i];
			new Thread(() -> serve(name, args[0])).start();
		}
	}

	static void serve(String name, String cookie) {
		try {
			OtpSelf self = new OtpSelf(name, cookie);
			if (!self.publishPort()) {
				throw new Exception("not published");
			}
			System.out.println(name + " published");
			OtpConnection conn = self.accept();
			OtpErlangTuple msg = (OtpErlangTuple) conn.receiveMsg().getMsg();
			conn.send((OtpErlangPid) msg.elementAt(0), msg.elementAt(1));
			System.out.println(name + " answered");
			self.unPublishPort();
			System.out.println(name + " unpublished");
			conn.receive(); // until the other end closes
		} catch (java.io.IOException | OtpErlangExit end) {
			System.out.println(name + " ended: " + end);
		} catch (Exception e) {
			System.out.println(name + " failed: " + e);
		}
	}
}
