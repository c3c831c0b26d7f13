# Real nginx processes for tests that one configuration and one request cannot say: two gateways, reload, crash, a Redis that
# stalls. Everything ends with the test, by its own id; waiting is polling with a deadline.
package Sluice::Run;

use strict;
use warnings;

use Exporter 'import';
use File::Path  ();
use File::Temp  ();
use IO::Socket::INET;
use POSIX       ();
use Time::HiRes ();

our @EXPORT = qw(free_port conf nginx_t gateway backend redis wait_until get status_of body_of header_of);

my $binary = $ENV{TEST_NGINX_BINARY} || 'nginx';
my $module = $ENV{TEST_NGINX_LOAD_MODULES} or die "TEST_NGINX_LOAD_MODULES is not set: run scripts/test\n";
my $main   = $$;
my @started;
my %given;

# free_port(): a loopback port that nothing listens on, and that was not given before.
sub free_port {
    for (1 .. 1000) {
        my $port = 20000 + int rand 12000;
        next if $given{$port}++;
        my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
        return $port if $socket;
    }
    die "no free port\n";
}

# wait_until($seconds, $code): true as soon as $code is, false at the deadline.
sub wait_until {
    my ($seconds, $code) = @_;
    my $deadline = Time::HiRes::time() + $seconds;
    until ($code->()) {
        return 0 if Time::HiRes::time() > $deadline;
        Time::HiRes::sleep(0.02);
    }
    return 1;
}

# conf(http => TEXT, main => TEXT, workers => N): a directory with logs/ and nginx.conf in it; the path of the directory.
sub conf {
    my %of  = @_;
    my $dir = File::Temp::tempdir(CLEANUP => $$ == $main);
    chmod 0755, $dir;
    File::Path::make_path("$dir/logs", "$dir/temp", "$dir/html");
    write_conf($dir, %of);
    return $dir;
}

sub write_conf {
    my ($dir, %of) = @_;
    my $temp = join ' ', map {"${_}_temp_path temp/$_;"} qw(client_body proxy fastcgi uwsgi scgi);
    my $load = defined $of{load} ? $of{load} : "load_module $module;";
    my ($main, $workers, $http) = ($of{main} || '', $of{workers} || 1, $of{http} || '');
    spew("$dir/nginx.conf", "$load\npid logs/nginx.pid;\nworker_processes $workers;\n$main\n"
            . "events { worker_connections 512; }\nhttp {\naccess_log off;\n$temp\n$http\n}\n");
}

sub spew {
    my ($path, $text) = @_;
    open my $file, '>', "$path.new" or die "$path: $!\n";
    print {$file} $text;
    close $file or die "$path: $!\n";
    rename "$path.new", $path or die "$path: $!\n";
}

# nginx_t(http => TEXT, …): (exit status, what it printed) of nginx -t.
sub nginx_t {
    my $dir  = conf(@_);
    my $said = `$binary -t -p $dir -c $dir/nginx.conf -e stderr 2>&1`;
    return ($? >> 8, $said);
}

# own($pid): a process that somebody started for this test ends with it too.
sub own    { push @started, grep {defined} @_ }
sub disown { my $pid = shift // 0; @started = grep { $_ != $pid } @started }

# run(@command): in the background; its id.
sub run {
    my $pid = fork;
    die "fork: $!\n" unless defined $pid;
    if (!$pid) {
        open STDIN,  '<', '/dev/null';
        open STDOUT, '>', '/dev/null';
        open STDERR, '>', '/dev/null';
        exec @_ or POSIX::_exit(127);
    }
    push @started, $pid;
    return $pid;
}

# run_code($code): the same for a piece of Perl, which ends with the test.
sub run_code {
    my $code = shift;
    my $pid = fork;
    die "fork: $!\n" unless defined $pid;
    if (!$pid) {
        eval { $code->() };
        POSIX::_exit(0);
    }
    push @started, $pid;
    return $pid;
}

# gateway(http => TEXT, …): an nginx that runs; an object with pid, dir, and the methods below.
sub gateway {
    my $dir = conf(@_);
    my $self = bless { dir => $dir }, 'Sluice::Run::Nginx';
    $self->{pid} = run($binary, '-p', $dir, '-c', "$dir/nginx.conf", '-e', "$dir/logs/error.log", '-g', 'daemon off;');
    wait_until(10, sub { -s "$dir/logs/nginx.pid" || !kill(0, $self->{pid}) || ended($self->{pid}) })
        && -s "$dir/logs/nginx.pid" or die "nginx did not start:\n" . $self->log;
    return $self;
}

# backend(server => TEXT): a stock nginx without the module, listening on ->{port}; TEXT goes into its server {}.
sub backend {
    my %of   = @_;
    my $port = $of{port} || free_port();
    my $in   = $of{server} || '';
    my $self = gateway(load => '', http => "server { listen 127.0.0.1:$port; $in }", %of);
    $self->{port} = $port;
    return $self;
}

# redis(port => N, args => […]): a redis-server of this test's own; an object with pid and port.
sub redis {
    my %of   = @_;
    my $port = $of{port} || free_port();
    my $dir  = File::Temp::tempdir(CLEANUP => 1);
    my $self = bless { dir => $dir, port => $port }, 'Sluice::Run::Process';
    $self->{pid} = run('redis-server', '--port', $port, '--bind', '127.0.0.1', '--dir', $dir, '--save', '', '--appendonly', 'no', @{ $of{args} || [] });
    wait_until(10, sub { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 1) }) or die "redis-server did not start\n";
    return $self;
}

# get($port, $path, name => value …): the whole answer of one HTTP/1.1 request with these headers, or '' at 10 seconds.
# method => and body => are not headers.
sub get {
    my ($port, $path, %headers) = @_;
    my ($method, $body) = (delete $headers{method} || 'GET', delete $headers{body});
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 10) or return '';
    $headers{Host} ||= 'localhost';
    $headers{'Content-Length'} = length $body if defined $body;
    my $lines = join '', map {"$_: $headers{$_}\r\n"} sort keys %headers;
    local $SIG{PIPE} = 'IGNORE';
    print {$socket} "$method $path HTTP/1.1\r\nConnection: close\r\n$lines\r\n", defined $body ? $body : '';
    my $answer = '';
    eval {
        local $SIG{ALRM} = sub { die "timeout\n" };
        alarm 10;
        1 while sysread $socket, $answer, 65536, length $answer;
        alarm 0;
    };
    alarm 0;
    return $answer;
}

sub status_of { $_[0] =~ m{^HTTP/1\.[01] (\d{3})} ? $1 : 0 }
sub body_of   { $_[0] =~ m{\r\n\r\n(.*)}s         ? $1 : '' }

# header_of($answer, $name): its value, or undef.
sub header_of {
    my ($head) = split /\r\n\r\n/, $_[0], 2;
    return defined $head && $head =~ m{^\Q$_[1]\E:\s*(.*?)\r?$}mi ? $1 : undef;
}

# ended($pid): has it ended, whether or not it was waited for?
sub ended {
    my $pid = shift;
    return 1 if waitpid($pid, POSIX::WNOHANG()) == $pid;
    return !kill 0, $pid;
}

sub finish {
    my $pid = shift;
    return if ended($pid);
    kill 'TERM', $pid;
    kill 'CONT', $pid;
    wait_until(5, sub { ended($pid) }) or kill 'KILL', $pid;
    waitpid $pid, 0;
}

END {
    if ($$ == $main) {
        local $?;
        finish($_) for reverse @started;
    }
}

package Sluice::Run::Process;

sub stop   { Sluice::Run::finish($_[0]{pid}) }
sub signal { kill $_[1], $_[0]{pid} }

package Sluice::Run::Nginx;

our @ISA = 'Sluice::Run::Process';

# log(): the error log so far.
sub log {
    open my $file, '<', "$_[0]{dir}/logs/error.log" or return '';
    local $/;
    return scalar <$file> // '';
}

# workers(): the ids of the worker processes.
sub workers {
    my $self = shift;
    open my $file, '<', "/proc/$self->{pid}/task/$self->{pid}/children" or return;
    return split ' ', <$file> // '';
}

# reload(http => TEXT, …): with a new configuration if one is given; true when only new workers are left.
sub reload {
    my ($self, @conf) = @_;
    my %old = map { $_ => 1 } $self->workers;
    Sluice::Run::write_conf($self->{dir}, @conf) if @conf;
    $self->signal('HUP');
    return Sluice::Run::wait_until(10, sub {
        my @now = $self->workers;
        @now && !grep { $old{$_} } @now;
    });
}

# quit($signal): QUIT (default) or TERM; true when the master has ended within ten seconds.
sub quit {
    my ($self, $signal) = @_;
    $self->signal($signal || 'QUIT');
    return Sluice::Run::wait_until(10, sub { Sluice::Run::ended($self->{pid}) });
}

1;
